"""Trains SAM's part decoder: prompt encoder, mask decoder and comparison on the frozen image_embedding, for boxes and points.

As in LISA, which tunes a mask decoder of its own: `[SEG]` and SAM's prompts share the embedding, not the decoder.
`python -m sightline_training.part_decoder` reads the scenes of `part_scenes` and writes `parts.safetensors`.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from sightline_export.tiny import GRID, WEIGHTS, load_decoder
from sightline_export.tiny_parts import PartDecoder
from sightline_training.features import MASK_SIDE, SAM_SIDE
from sightline_training.grounds import GROUNDS
from sightline_training.part_prompts import PADDING, box_prompt, corners, inside, point, point_prompt
from sightline_training.part_scenes import Scenes
from sightline_training.sam import mask_loss
from torch import Tensor, nn

Prompt = tuple[np.ndarray, np.ndarray]  # rows x, y, label [N, 3] and the target float32 [M, M]
Scores = dict[str, list[tuple[int, float]]]  # by kind of prompt: row of GROUNDS and IoU


class Batches:
    """Steps of `pictures` scenes with two boxes and two lots of points each; prompts of a group have one length."""

    def __init__(self, scenes: Scenes, pictures: int, seed: int) -> None:
        self.scenes, self.pictures, self.rng = scenes, pictures, np.random.default_rng(seed)
        self.order: list[int] = []

    def groups(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Two groups of (embedding [B, 256, G, G], rows [B, 2, N, 3], target [B, 2, M, M])."""
        if len(self.order) < self.pictures:
            self.order = list(self.rng.permutation(np.flatnonzero(self.scenes.size[:, 0])))  # those that are drawn
        rows = sorted(self.order.pop() for _ in range(self.pictures))
        count, boxed = int(self.rng.integers(1, 5)), bool(self.rng.random() < 0.3)
        padding = np.repeat(PADDING, int(self.rng.choice([0, 1, 2], p=[0.85, 0.1, 0.05])), axis=0)
        boxes: list[Prompt] = []
        points: list[Prompt] = []
        for row in rows:
            cover = self.scenes.coverage(row)
            known = (cover, np.array(self.scenes.boxes[row, : len(cover)]), np.array(self.scenes.size[row]), self.rng)
            boxes += [box_prompt(*known) for _ in range(2)]
            points += [point_prompt(*known, count, boxed) for _ in range(2)]
        points = [(np.concatenate([padding, prompt]), target) for prompt, target in points]
        embedding = torch.from_numpy(self.scenes.embedding[rows].astype(np.float32))
        sides = (map(np.stack, zip(*group, strict=True)) for group in (boxes, points))
        return [(embedding, *(torch.from_numpy(side).unflatten(0, (-1, 2)) for side in pair)) for pair in sides]


def in_bf16(decode: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """SAM's decoder rounded, for speed; prompts and comparison stay fp32: bf16 moves a place by several pixels."""

    def rounded(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            masks, ious = decode(*inputs)
        return masks.float(), ious.float()

    return rounded


@torch.inference_mode()
def found(model: PartDecoder, scenes: Scenes, row: int, prompt: np.ndarray, clip: np.ndarray | None = None) -> np.ndarray:
    """bool [S, S]: the mask of one prompt [N, 3] at the resolution of SAM's frame, cut to the box `clip` as the server does it."""
    embedding = torch.from_numpy(scenes.embedding[row].astype(np.float32)).unsqueeze(0)
    rows = torch.from_numpy(prompt).view(1, 1, -1, 3)
    logits, _ = model(embedding, rows[..., :2], rows[..., 2])
    full = F.interpolate(logits, scale_factor=SAM_SIDE / MASK_SIDE, mode="bilinear")[0, 0].numpy() > 0
    height, width = scenes.size[row]
    x0, y0, x1, y1 = (0, 0, width, height) if clip is None else clip
    window = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
    kept = np.zeros_like(full)
    kept[window] = full[window]
    return kept


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def point_on(cover: np.ndarray, rng: np.random.Generator, label: int) -> np.ndarray:
    """One row [1, 3] on a part."""
    return np.array([[*point(inside(cover), rng), label]], np.float32)


def evaluate(model: PartDecoder, scenes: Scenes, rows: range) -> Scores:
    """Exact boxes, boxes with margins, the whole picture's box, one point on a part, and that with one off its neighbour."""
    rng = np.random.default_rng(0)
    scores: Scores = defaultdict(list)
    for row in rows:
        truth, cover, size = scenes.full(row), scenes.coverage(row), np.array(scenes.size[row])
        ground, boxes = int(scenes.ground[row]), np.array(scenes.boxes[row])
        whole = np.array([[0, 0, 2], [size[1], size[0], 3]], np.float32)
        scores["whole picture"].append((ground, iou(found(model, scenes, row, whole), truth.any(0))))
        for k in range(len(truth)):
            for style in ("exact", "margin"):
                prompt = corners(boxes[k], size, rng, style)
                scores[f"{style} box"].append((ground, iou(found(model, scenes, row, prompt, prompt[:, :2].ravel()), truth[k])))
        on = point_on(cover[0], rng, 1)
        scores["point"].append((ground, iou(found(model, scenes, row, np.concatenate([on, PADDING])), truth[0])))
        if len(truth) > 1:
            both = np.concatenate([on, point_on(cover[1], rng, 0), PADDING])
            scores["point, off neighbour"].append((ground, iou(found(model, scenes, row, both), truth[0])))
    return scores


def table(scores: Scores) -> str:
    """Mean and tenth percentile by kind of prompt; of exact boxes by ground, too."""
    rows = {kind: [score for _, score in pairs] for kind, pairs in scores.items()}
    rows |= {f"  on {name}": [score for row, score in scores["exact box"] if GROUNDS[row] == name] for name in GROUNDS}
    return "\n".join(f"{kind:22} mean {np.mean(v):.3f}  p10 {np.percentile(v, 10):.3f}  of {len(v)}" for kind, v in rows.items() if v)


def train(folder: Path, weights: Path, steps: int, pictures: int, seed: int, rate: float, start_from: Path | None) -> PartDecoder:
    torch.manual_seed(seed)
    batches = Batches(Scenes.load(folder, "train"), pictures, seed)
    model = PartDecoder(*load_decoder(weights / "sam.safetensors"), GRID, SAM_SIDE)
    if start_from is not None:
        model.load_state_dict(torch.load(start_from, weights_only=True)["model"])
    exact, model.mask_decoder.forward = model.mask_decoder.forward, in_bf16(model.mask_decoder.forward)
    sides = [[*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()], list(model.comparison.parameters())]
    optimiser = torch.optim.AdamW([{"params": side} for side in sides], rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [rate, 4 * rate], steps, pct_start=0.05)  # the comparison is new
    start, average = time.monotonic(), 0.0
    for step in track(range(1, steps + 1), description="part decoder"):
        optimiser.zero_grad()
        for embedding, rows, target in batches.groups():
            logits, ious, _ = model.decode(embedding, rows[..., :2], rows[..., 2])
            loss = mask_loss(logits.flatten(0, 1), ious.flatten(), target.flatten(0, 1))
            loss.backward()
            average = 0.99 * average + 0.01 * loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step} loss {average / (1 - 0.99 ** (2 * step)):.3f} {(time.monotonic() - start) / step:.2f} s a step", flush=True)
            torch.save({"model": model.state_dict(), "step": step}, folder / "part_decoder.pt")
    model.mask_decoder.forward = exact
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/train"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="sam.safetensors to start from, and where the result goes")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pictures", type=int, default=4, help="scenes a step, four prompts each (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start-from", type=Path, help="a checkpoint to go on from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder, weights = arguments.data, arguments.weights
    model = train(folder, weights, arguments.steps, arguments.pictures, arguments.seed, arguments.rate, arguments.start_from)
    save_file({name: value.detach().half().contiguous() for name, value in model.state_dict().items()}, weights / "parts.safetensors")
    held = Scenes.load(folder, "held")
    print(table(evaluate(model, held, range(len(held)))))


if __name__ == "__main__":
    main()

"""Trains the tiny SAM: `SamNeck`, mask decoder, prompt encoder, and the prompt vectors that `[SEG]` will have to become.

Three teachers in every step: simulated defects (masks known, asked for as "any" or by kind), real cells (image labels only:
the brightest half percent of the mask must agree), drawn parts (box and point prompts). `python -m sightline_training.sam`
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from sightline_export.sam_decoder import MaskDecoder, PromptEncoder
from sightline_export.tiny_vision import KINDS, SAM_STRIDES, SamNeck
from sightline_training.data import cells
from sightline_training.features import MASK_SIDE, SAM_SIDE
from sightline_training.vision import Pyramids, fill_standardisers, random_flips, with_any
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

GRID = SAM_SIDE // 16
DECODER = {"width": 256, "hidden": 1024, "masks": 1}
BRIGHTEST = MASK_SIDE * MASK_SIDE // 200


class TinySam(nn.Module):
    """Neck, prompt encoder, one decoder for both uses, and the four prompt vectors: any defect, then each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = SamNeck()
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder(**DECODER)
        self.seg_prompts = nn.Parameter(torch.randn(1 + KINDS, 256) * 0.3)

    def decode(self, embedding: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 256, G, G], [B, N, 256] -> logits [B, M, M], predicted IoU [B]."""
        dense = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        masks, ious = self.mask_decoder(embedding, self.prompt_encoder.dense_pe(GRID), sparse, dense)
        return masks[:, 0], ious[:, 0]


def mask_loss(logits: Tensor, ious: Tensor, target: Tensor) -> Tensor:
    """SAM's recipe: focal (x 20), dice and the squared error of the predicted IoU; [B, M, M]."""
    p = logits.sigmoid()
    focal = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * (target - p).abs().square()
    dice = 1 - (2 * (p * target).sum((1, 2)) + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
    return 20 * focal.mean() + dice.mean() + F.mse_loss(ious, true_iou(logits, target))


@torch.no_grad()
def true_iou(logits: Tensor, target: Tensor) -> Tensor:
    found = (logits > 0).float()
    overlap = (found * target).sum((1, 2))
    return overlap / (found.sum((1, 2)) + target.sum((1, 2)) - overlap).clamp(min=1)


def part_prompts(masks: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A box, points, or both around each mask [B, M, M] -> coords [B, 5, 2] in pixels of the input, labels [B, 5]."""
    scale = SAM_SIDE / MASK_SIDE
    coords, labels = np.zeros((len(masks), 5, 2), np.float32), np.full((len(masks), 5), -1, np.float32)
    for i, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        use = rng.choice(["box", "points", "both"], p=[0.6, 0.25, 0.15])
        if use != "points":
            corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]) * scale
            coords[i, :2] = corners + rng.normal(0, 0.02, (2, 2)) * (corners[1] - corners[0])
            labels[i, :2] = 2, 3
        if use != "box":
            for k in range(2, 2 + int(rng.integers(1, 4))):
                inside = rng.random() < 0.75 or mask.all()
                where = np.argwhere(mask if inside else ~mask)
                coords[i, k] = (where[rng.integers(len(where))][::-1] + 0.5) * scale
                labels[i, k] = float(inside)
            if not (labels[i] == 1).any():
                coords[i, 2], labels[i, 2] = (np.argwhere(mask)[rng.integers(len(rows))][::-1] + 0.5) * scale, 1
    return torch.from_numpy(coords), torch.from_numpy(labels)


class Trainer:
    """Data, model and one step."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.real, self.synth, self.parts = (Pyramids(folder, name, SAM_SIDE, SAM_STRIDES) for name in ("real", "synth", "parts"))
        self.masks = with_any(np.unpackbits(np.load(folder / "synth_masks.npy"), axis=-1).astype(bool))  # [N, 4, M, M]
        self.part_masks = np.unpackbits(np.load(folder / "parts_masks.npy"), axis=-1).astype(bool)
        self.labels = torch.tensor([cell.probability for cell in cells("train") + cells("val")])
        self.n_real, self.n_synth, self.n_parts = len(cells("train")), len(self.synth) - 200, len(self.parts) - 60
        self.model = TinySam()

    def step(self) -> Tensor:
        """The loss of 6 simulated, 4 real and 4 drawn pictures."""
        rng, flips = self.rng, random_flips(self.rng)
        synth, real = rng.choice(self.n_synth, 6, replace=False), rng.choice(self.n_real, 4, replace=False)
        parts = rng.choice(self.n_parts, 4, replace=False)
        groups = [self.synth.batch(synth, flips), self.real.batch(real, flips), self.parts.batch(parts, flips)]
        embedding = self.model.neck({key: torch.cat([group[key] for group in groups]) for key in groups[0]})

        present = self.masks[synth].any((2, 3))  # [6, 4]
        asked = np.array(
            [0 if rng.random() < 0.5 else rng.choice(np.flatnonzero(row)) if rng.random() < 0.85 else rng.integers(4) for row in present]
        )
        target = torch.from_numpy(self.masks[synth, asked])
        target = target.flip(flips) if flips else target
        queries = self.model.seg_prompts[torch.from_numpy(np.concatenate((asked, np.zeros(4, np.int64))))].unsqueeze(1)
        logits, ious = self.model.decode(embedding[:10], queries)
        loss = mask_loss(logits[:6], ious[:6], target)
        bright = logits[6:].flatten(1).topk(BRIGHTEST, dim=1).values.mean(1)
        loss = loss + F.binary_cross_entropy_with_logits(bright, self.labels[real])

        outlines = torch.from_numpy(self.part_masks[parts])
        outlines = outlines.flip(flips) if flips else outlines
        sparse = self.model.prompt_encoder(*part_prompts(outlines.numpy(), rng), SAM_SIDE)
        logits, ious = self.model.decode(embedding[10:], sparse)
        return loss + mask_loss(logits, ious, outlines.float())

    @torch.inference_mode()
    def report(self) -> str:
        """Held out: real AUROC (validation part), simulated pixel AUROC and IoU, IoU of boxed parts."""
        self.model.eval()
        any_prompt = self.model.seg_prompts[:1].unsqueeze(0)
        bright, truth = [], (self.labels[self.n_real :] >= 0.5).numpy()
        for rows in np.array_split(np.arange(self.n_real, len(self.real)), 12):
            logits, _ = self.model.decode(self.model.neck(self.real.batch(rows)), any_prompt.expand(len(rows), -1, -1))
            bright.append(logits.flatten(1).topk(BRIGHTEST, dim=1).values.mean(1))
        rows = np.arange(self.n_synth, self.n_synth + 60)
        logits, _ = self.model.decode(self.model.neck(self.synth.batch(rows)), any_prompt.expand(60, -1, -1))
        target = torch.from_numpy(self.masks[rows, 0])
        pixel = roc_auc_score(target.flatten().numpy() > 0, logits.flatten().numpy())
        iou = true_iou(logits, target).mean()
        rows = np.arange(self.n_parts, len(self.parts))
        outlines = self.part_masks[rows]
        sparse = self.model.prompt_encoder(*part_prompts(outlines, np.random.default_rng(0)), SAM_SIDE)
        logits, _ = self.model.decode(self.model.neck(self.parts.batch(rows)), sparse)
        part_iou = true_iou(logits, torch.from_numpy(outlines).float()).mean()
        self.model.train()
        real = roc_auc_score(truth, torch.cat(bright))
        return f"real AUROC {real:.4f} | simulated: pixel AUROC {pixel:.4f} IoU {iou:.3f} | parts IoU {part_iou:.3f}"


def train(folder: Path, steps: int, seed: int, start_from: Path | None) -> None:
    trainer, rate = Trainer(folder, seed), 6e-4
    if start_from is None:
        fill_standardisers(trainer.model.neck.standardise, trainer.real, trainer.rng)
    else:  # the language model may have learnt the prompt vectors already: they stay
        trainer.model.load_state_dict(torch.load(start_from, weights_only=True)["model"])
        trainer.model.seg_prompts.requires_grad_(False)
        rate = 2e-4
    optimiser = torch.optim.AdamW([p for p in trainer.model.parameters() if p.requires_grad], rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.08)
    start, average = time.monotonic(), 0.0
    for step in track(range(1, steps + 1), description="SAM"):
        loss = trainer.step()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average = 0.98 * average + 0.02 * loss.item()
        if step == 20:
            print(f"{(time.monotonic() - start) / step:.2f} s a step", flush=True)
        if step % 100 == 0 or step == steps:
            print(f"step {step} loss {average / (1 - 0.98**step):.3f} {trainer.report()}", flush=True)
            torch.save({"model": trainer.model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, folder / "sam.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/train"))
    parser.add_argument("--steps", type=int, default=920)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start-from", type=Path, help="a checkpoint to go on from; its [SEG] prompts stay as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.data, arguments.steps, arguments.seed, arguments.start_from)

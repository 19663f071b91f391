"""Full fine-tuning of the backbone on the verdict: EfficientNet-Lite0 learns from pixels whether a cell is defective.

Its last features become a part of the picture's own evidence beside LISA's answer (`ensemble/fusion.py`). The val part chose the number
of epochs (10 against 20); the last step's running average of the weights is kept. `python -m sightline_training.backbone`
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sightline_export.efficientnet import LATER, load_backbone
from sightline_export.tiny_witness import PictureReader
from sightline_training.data import cells, picture
from sightline_training.features import vision_pixels
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

BATCH, RATE, DECAY, AVERAGE = 32, 6e-4, 0.03, 0.995


class Verdict(nn.Module):
    """Backbone and reader: uint8-valued pixels [B, 3, V, V] -> logit [B] of "defective"."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.reader = load_backbone(), PictureReader()
        self.later.requires_grad_(True)

    @property
    def later(self) -> nn.Module:
        return self.backbone._blocks[LATER:]

    def train(self, mode: bool = True) -> Verdict:
        """The frozen blocks keep their statistics."""
        super().train(mode)
        self.backbone.eval()
        self.later.train(mode)
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            early = self.backbone.early(pixels)
        return self.reader(self.backbone.later(early))


def varied(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Float [B, 1, V, V]: each picture mirrored, turned by 180 degrees, a little shifted, scaled, brighter or darker."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(pixels), generator=generator)

    flip_x, flip_y = (torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) for _ in range(2))
    scale, angle = uniform(0.93, 1.05), uniform(-2, 2) * math.pi / 180
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = flip_x * scale * angle.cos(), -angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin(), flip_y * scale * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.06, 0.06), uniform(-0.06, 0.06)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    bright = (uniform(0.8, 1.2)[:, None, None, None], uniform(-12, 12)[:, None, None, None])
    return (moved * bright[0] + bright[1]).clamp(0, 255)


def mixed(pixels: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the batches: each picture with a share of another one (mixup, arXiv 1710.09412, alpha 0.2)."""
    if torch.rand(1, generator=generator) < 0.5:
        return pixels, labels
    share = float(torch.distributions.Beta(0.2, 0.2).sample())
    other = torch.randperm(len(pixels), generator=generator)
    return share * pixels + (1 - share) * pixels[other], share * labels + (1 - share) * labels[other]


@torch.inference_mode()
def logits_of(model: Verdict, pixels: Tensor) -> np.ndarray:
    """float32 [N]."""
    return torch.cat([model(part.float().expand(-1, 3, -1, -1)) for part in pixels.split(16)]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/train"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)

    parts = {part: cells(part) for part in ("train", "val")}
    pixels = {
        part: torch.from_numpy(np.stack([vision_pixels(picture(c))[..., 0] for c in found]))[:, None] for part, found in parts.items()
    }
    labels = {part: torch.tensor([cell.probability for cell in found]) for part, found in parts.items()}
    model = Verdict().train().to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).eval()
    slow = list(model.later.parameters())
    optimiser = torch.optim.AdamW([{"params": slow, "lr": RATE}, {"params": model.reader.parameters(), "lr": 2 * RATE}], weight_decay=DECAY)
    steps = arguments.epochs * (len(pixels["train"]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [RATE, 2 * RATE], steps, pct_start=0.15)
    start, done = time.monotonic(), 0
    for epoch in range(1, arguments.epochs + 1):
        losses = []
        order = torch.randperm(len(pixels["train"]), generator=generator)
        for rows in order.split(BATCH):
            if len(rows) < BATCH:
                continue
            x, y = mixed(varied(pixels["train"][rows].float(), generator), labels["train"][rows], generator)
            x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.binary_cross_entropy_with_logits(model(x).float(), y)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            done, keep = done + 1, min(AVERAGE, (done + 1) / (done + 10))
            for mean, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                mean.lerp_(now, 1 - keep) if mean.is_floating_point() else mean.copy_(now)
            losses.append(loss.item())
            if done % 10 == 0:
                print(f"step {done}/{steps} loss {np.mean(losses[-10:]):.4f} {(time.monotonic() - start) / done:.2f} s a step", flush=True)
        found, truth = logits_of(average, pixels["val"]), labels["val"].numpy() >= 0.5
        print(f"epoch {epoch}: val AUROC {roc_auc_score(truth, found):.4f} accuracy {((found > 0) == truth).mean():.4f}", flush=True)
        torch.save(average.state_dict(), arguments.data / "backbone.pt")


if __name__ == "__main__":
    main()

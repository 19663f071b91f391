"""Trains the `TokenNeck`: a map of defects by kind, and picture tokens from which verdict, kind and place can be read linearly.

Simulated defects teach kind and place; the real labels of the training part teach the verdict (multiple-instance: the
brightest half percent of the map must agree with the label). `python -m sightline_training.vision`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from sightline_export.efficientnet import CHANNELS
from sightline_export.tiny_vision import GLOBAL_TOKENS, KINDS, TOKEN_STRIDES, TOKEN_WIDTH, Standardise, TokenNeck
from sightline_training.data import cells
from sightline_training.features import VISION_SIDE
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn


class Pyramids:
    """Cached features of one set, by stride; flips make the views (the backbone is nearly flip-equivariant)."""

    def __init__(self, folder: Path, name: str, side: int, strides: tuple[str, ...]) -> None:
        self.arrays = {key: np.load(folder / f"{name}_{side}_{key}.npy", mmap_mode="r") for key in strides}

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batch(self, indices: np.ndarray, flips: tuple[int, ...] = ()) -> dict[str, Tensor]:
        """float32 features of the pictures `indices`; flips: of the last (-1) and/or next to last (-2) axis."""
        order = np.argsort(indices)
        back = np.argsort(order)
        found = {key: torch.from_numpy(array[indices[order]][back].astype(np.float32)) for key, array in self.arrays.items()}
        return {key: value.flip(flips) if flips else value for key, value in found.items()}


def fill_standardisers(modules: nn.ModuleDict, pyramids: Pyramids, rng: np.random.Generator) -> None:
    """Mean and deviation by channel from 256 pictures."""
    sample = pyramids.batch(np.sort(rng.choice(len(pyramids), min(256, len(pyramids)), replace=False)))
    for key, module in modules.items():
        assert isinstance(module, Standardise)
        module.mean.copy_(sample[key].mean((0, 2, 3)).view(CHANNELS[key], 1, 1))
        module.std.copy_(sample[key].std((0, 2, 3)).view(CHANNELS[key], 1, 1))


def random_flips(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(axis for axis in (-1, -2) if rng.random() < 0.5)


class Readouts(nn.Module):
    """Linear readers of the tokens, for training only: they force the tokens to say what the language model must find."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict = nn.Linear(GLOBAL_TOKENS * TOKEN_WIDTH, 1)
        self.place = nn.Linear(TOKEN_WIDTH, 1 + KINDS)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B, 12, 256] -> verdict logits [B], logits by place [B, 9, 4]."""
        return self.verdict(tokens[:, -GLOBAL_TOKENS:].flatten(1)).squeeze(1), self.place(tokens[:, :-GLOBAL_TOKENS])


def map_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal and dice, by channel; [B, 4, 64, 64]."""
    p = logits.sigmoid()
    focal = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * (target - p).abs().square()
    dice = 1 - (2 * (p * target).sum((2, 3)) + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    return 10 * focal.mean() + dice.mean()


def brightest(logits: Tensor) -> Tensor:
    """Mean of the brightest half percent of the any-defect map: [B, 4, 64, 64] -> [B]."""
    return logits[:, 0].flatten(1).topk(20, dim=1).values.mean(1)


def with_any(masks: np.ndarray) -> np.ndarray:
    """[N, kinds, ...] bool -> float32 [N, 1 + kinds, ...] with the union first."""
    return np.concatenate((masks.any(1, keepdims=True), masks), axis=1).astype(np.float32)


def place_targets(target: Tensor) -> Tensor:
    """[B, 4, 64, 64] -> [B, 9, 4]: what is present in each third by third."""
    return F.max_pool2d(target, 22, 21).flatten(2).transpose(1, 2)


def train(folder: Path, epochs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    real = Pyramids(folder, "real", VISION_SIDE, TOKEN_STRIDES)
    synth = Pyramids(folder, "synth", VISION_SIDE, TOKEN_STRIDES)
    masks = torch.from_numpy(with_any(np.unpackbits(np.load(folder / "synth_masks.npy"), axis=-1).astype(bool)))
    masks = F.max_pool2d(masks, 2)  # [N, 4, 64, 64]
    train_cells, val_cells = cells("train"), cells("val")
    labels = torch.tensor([cell.probability for cell in train_cells + val_cells])
    n_train, n_synth = len(train_cells), len(synth) - 200  # the last 200 simulated ones are held out
    neck, read = TokenNeck(), Readouts()
    fill_standardisers(neck.standardise, real, rng)
    parameters = [*neck.parameters(), *read.parameters()]
    optimiser = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.05)
    steps = epochs * (n_train // 24)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps, pct_start=0.1)
    for epoch in range(epochs):
        neck.train()
        order = rng.permutation(n_train)
        for start in track(range(0, n_train - 23, 24), description=f"epoch {epoch + 1}/{epochs}"):
            flips = random_flips(rng)
            indices, made = order[start : start + 24], rng.choice(n_synth, 12, replace=False)
            a, b = real.batch(indices, flips), synth.batch(made, flips)
            tokens, logits = neck({key: torch.cat((a[key], b[key])) for key in a})
            verdict, places = read(tokens)
            target = masks[made].flip(flips) if flips else masks[made]
            soft = torch.cat((labels[indices], torch.ones(12)))
            weight = torch.cat((torch.ones(24), torch.full((12,), 0.3)))
            loss = map_loss(logits[24:], target)
            loss = loss + F.binary_cross_entropy_with_logits(brightest(logits[:24]), labels[indices])
            loss = loss + F.binary_cross_entropy_with_logits(verdict, soft, weight)
            loss = loss + F.binary_cross_entropy_with_logits(places[24:], place_targets(target))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            if schedule.last_epoch < steps:
                schedule.step()
        report(neck, read, real, synth, masks, labels, n_train, n_synth)
        torch.save({"neck": neck.state_dict(), "read": read.state_dict()}, folder / "vision.pt")


@torch.inference_mode()
def report(
    neck: TokenNeck, read: Readouts, real: Pyramids, synth: Pyramids, masks: Tensor, labels: Tensor, n_train: int, n_synth: int
) -> None:
    """Prints the validation part's AUROC and the held-out simulated defects' AUROC by pixel and by place."""
    neck.eval()
    tokens, logits = neck(real.batch(np.arange(n_train, len(real))))
    truth = (labels[n_train:] >= 0.5).numpy()
    verdict = read(tokens)[0]
    tokens, made = neck(synth.batch(np.arange(n_synth, len(synth))))
    places = read(tokens)[1]
    pixel = roc_auc_score(masks[n_synth:, 0].flatten().numpy() > 0, made[:, 0].flatten().numpy())
    place = roc_auc_score(place_targets(masks[n_synth:])[..., 0].flatten().numpy() > 0, places[..., 0].flatten().numpy())
    accuracy = ((verdict > 0).numpy() == truth).mean()
    print(
        f"val AUROC verdict {roc_auc_score(truth, verdict):.4f} map {roc_auc_score(truth, brightest(logits)):.4f} accuracy {accuracy:.4f}"
        f" | simulated: pixel AUROC {pixel:.4f} place AUROC {place:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/train"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    train(arguments.data, arguments.epochs, arguments.seed)

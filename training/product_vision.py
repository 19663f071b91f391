"""Second and third stage of `sightline_training.products`: the token neck and the `[SEG]` mask decoder learn the simulated defects.

Both start from the shipped weights. SAM's neck stays as shipped: the decoder of boxes and points reads the same embedding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import load_file
from sightline_export.tiny import WEIGHTS, load_tokens
from sightline_export.tiny_vision import TOKEN_STRIDES, TokenNeck
from sightline_training.features import VISION_SIDE
from sightline_training.product_data import Pictures
from sightline_training.sam import BRIGHTEST, TinySam, mask_loss, true_iou
from sightline_training.vision import Pyramids, Readouts, brightest, map_loss, place_targets, random_flips, with_any
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

NECK_STEPS, NECK_BATCH, NECK_RATE = 240, 24, 8e-4
DECODER_STEPS, DECODER_BATCH, DECODER_RATE = 400, 8, 3e-4


def step(optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler, loss: Tensor) -> float:
    """One step down a loss, gradients clipped; returns the loss."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()
    schedule.step()
    return loss.item()


def train_neck(out: Path, seed: int, steps: int = NECK_STEPS, weights: Path = WEIGHTS) -> None:
    """Writes vision.pt: the token neck that tells defects of these products from normal pictures."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    pictures, pyramids = Pictures(out, "train"), Pyramids(out, "train", VISION_SIDE, TOKEN_STRIDES)
    masks, truth = torch.from_numpy(with_any(pictures.squashed)), torch.from_numpy(pictures.defective).float()
    neck, read = load_tokens(weights / "vision.safetensors").train(), Readouts()
    optimiser = torch.optim.AdamW([*neck.parameters(), *read.parameters()], NECK_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, NECK_RATE, steps, pct_start=0.1)
    for number in track(range(1, steps + 1), description="token neck"):
        rows, flips = rng.choice(len(pictures), min(NECK_BATCH, len(pictures)), replace=False), random_flips(rng)
        tokens, logits = neck(pyramids.batch(rows, flips))
        verdict, places = read(tokens)
        target = masks[rows].flip(flips) if flips else masks[rows]
        loss = map_loss(logits, target) + F.binary_cross_entropy_with_logits(brightest(logits), truth[rows])
        loss = loss + F.binary_cross_entropy_with_logits(verdict, truth[rows])
        loss = loss + F.binary_cross_entropy_with_logits(places, place_targets(target))
        value = step(optimiser, schedule, loss)
        if number % 80 == 0 or number == steps:
            print(f"step {number}/{steps} loss {value:.3f} {neck_report(out, neck, read)}", flush=True)
    torch.save(neck.state_dict(), out / "vision.pt")


@torch.inference_mode()
def neck_report(out: Path, neck: TokenNeck, read: Readouts) -> str:
    """What the neck makes of the held back pictures."""
    pictures, pyramids = Pictures(out, "held"), Pyramids(out, "held", VISION_SIDE, TOKEN_STRIDES)
    neck.eval()
    found = [neck(pyramids.batch(rows)) for rows in np.array_split(np.arange(len(pictures)), max(1, len(pictures) // 32))]
    neck.train()
    tokens, logits = (torch.cat([part[i] for part in found]) for i in range(2))
    verdict, bright = (roc_auc_score(pictures.defective, score) for score in (read(tokens)[0], brightest(logits)))
    pixel = roc_auc_score(pictures.squashed.any(1).ravel(), logits[:, 0].flatten().numpy())
    return f"held back: AUROC verdict {verdict:.4f} map {bright:.4f} pixel {pixel:.4f}"


def load_sam(weights: Path) -> TinySam:
    """The shipped neck, prompt encoder and decoder; the prompt of "any defect" starts at the middle of the `[SEG]` head's vectors."""
    model = TinySam()
    state = {name: value.float() for name, value in load_file(weights / "sam.safetensors").items()}
    left = model.load_state_dict(state, strict=False)
    assert left.missing_keys == ["seg_prompts"] and not left.unexpected_keys, left
    middle = load_file(weights / "language.safetensors")["text_hidden_fcs.2.bias"].float()
    model.seg_prompts.data.copy_(middle.expand_as(model.seg_prompts))
    return model


def decode(model: TinySam, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, M, M] and predicted IoU [B] of "any defect"."""
    return model.decode(embedding, model.seg_prompts[:1].unsqueeze(0).expand(len(embedding), -1, -1))


def brightness(logits: Tensor) -> Tensor:
    """Mean of the mask's brightest half percent, [B]."""
    return logits.flatten(1).topk(BRIGHTEST, dim=1).values.mean(1)


def train_decoder(out: Path, seed: int, steps: int = DECODER_STEPS, weights: Path = WEIGHTS) -> None:
    """Writes sam.pt: decoder and prompt vector that mask defects of these products, and nothing on normal pictures."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    pictures, model = Pictures(out, "train"), load_sam(weights).train()
    masks, truth = torch.from_numpy(pictures.masks.any(1)).float(), torch.from_numpy(pictures.defective).float()
    trained = [*model.mask_decoder.parameters(), model.seg_prompts]
    optimiser = torch.optim.AdamW(trained, DECODER_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, DECODER_RATE, steps, pct_start=0.08)
    for number in track(range(1, steps + 1), description="mask decoder"):
        rows, flips = rng.choice(len(pictures), min(DECODER_BATCH, len(pictures)), replace=False), random_flips(rng)
        embedding = pictures.embedding(rows)
        logits, ious = decode(model, embedding.flip(flips) if flips else embedding)
        target = masks[rows].flip(flips) if flips else masks[rows]
        loss = mask_loss(logits, ious, target) + 0.5 * F.binary_cross_entropy_with_logits(brightness(logits), truth[rows])
        value = step(optimiser, schedule, loss)
        if number % 100 == 0 or number == steps:
            held = Pictures(out, "held")
            logits = mask_logits(model, held, np.arange(len(held)))
            bright, iou = brightness(logits), true_iou(logits, torch.from_numpy(held.masks.any(1)).float())
            auroc = roc_auc_score(held.defective, bright)
            print(f"step {number}/{steps} loss {value:.3f} held back: AUROC {auroc:.4f} IoU {iou[held.defective].mean():.3f}", flush=True)
    torch.save(model.state_dict(), out / "sam.pt")


@torch.inference_mode()
def mask_logits(model: TinySam, pictures: Pictures, rows: np.ndarray) -> Tensor:
    """Logits [N, M, M] of some pictures."""
    return torch.cat([decode(model, pictures.embedding(part))[0] for part in np.array_split(rows, max(1, len(rows) // 16))])

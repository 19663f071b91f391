"""Features of the frozen backbone, computed once and kept on disk: what all trainings read.

`python -m sightline_training.features --out build/train` writes for every set (real: train and val cells; synth: simulated
defects; parts: drawn parts) float16 arrays `<set>_<resolution>_<stride>.npy` and the masks at SAM's low resolution.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.progress import track
from sightline_export.efficientnet import load_backbone
from sightline_training.data import cells, picture
from sightline_training.parts import draw_scene
from sightline_training.simulate import KINDS, simulate

SAM_SIDE, VISION_SIDE, MASK_SIDE = 512, 256, 128
SYNTHETIC, PARTS = 2200, 900


def sam_pixels(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """uint8 [H, W] or [H, W, 3] -> ([S, S, 3] padded right and bottom, scale), as the `decode` step does it."""
    height, width = pixels.shape[:2]
    scale = SAM_SIDE / max(height, width)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    resized = np.asarray(Image.fromarray(pixels).convert("RGB").resize(size, Image.Resampling.BILINEAR))
    padded = np.zeros((SAM_SIDE, SAM_SIDE, 3), np.uint8)
    padded[: size[1], : size[0]] = resized
    return padded, scale


def vision_pixels(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] -> [V, V, 3]: squashed bicubic, as the `cutout` step does it."""
    return np.asarray(Image.fromarray(pixels).convert("RGB").resize((VISION_SIDE, VISION_SIDE), Image.Resampling.BICUBIC))


def low_res(mask: np.ndarray, scale: float) -> np.ndarray:
    """bool [H, W] -> bool [M, M]: a cell is on where a quarter of it is covered (thin cracks must survive)."""
    height, width = mask.shape
    size = (max(1, round(width * scale * MASK_SIDE / SAM_SIDE)), max(1, round(height * scale * MASK_SIDE / SAM_SIDE)))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.25
    padded = np.zeros((MASK_SIDE, MASK_SIDE), bool)
    padded[: size[1], : size[0]] = small
    return padded


def extract(out: Path, name: str, pictures: Callable[[int], np.ndarray], count: int, side: int) -> None:
    """Runs the backbone over `count` pictures [side, side, 3] and writes one float16 array per stride."""
    backbone = load_backbone()
    files: dict[str, np.ndarray] = {}
    for start in track(range(0, count, 8), description=f"{name} {side}"):
        batch = np.stack([pictures(i) for i in range(start, min(start + 8, count))])
        with torch.inference_mode():
            features = backbone(torch.from_numpy(batch).permute(0, 3, 1, 2).float())
        for key, value in features.items():
            if side == SAM_SIDE and key == "top":
                continue
            if key not in files:
                shape = (count, *value.shape[1:])
                files[key] = np.lib.format.open_memmap(out / f"{name}_{side}_{key}.npy", "w+", np.float16, shape)
            files[key][start : start + len(batch)] = value.half().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/train"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, rng = arguments.out, np.random.default_rng(arguments.seed)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)

    real = [picture(cell) for cell in cells("train") + cells("val")]
    good = [picture(cell) for cell in cells("train") if cell.probability == 0]
    synth = [simulate(good[i % len(good)], rng) for i in range(SYNTHETIC)]
    scale = SAM_SIDE / synth[0].pixels.shape[0]
    masks = np.stack([[low_res(s.masks.get(kind, np.zeros(s.pixels.shape, bool)), scale) for kind in KINDS] for s in synth])
    np.save(out / "synth_masks.npy", np.packbits(masks, axis=-1))  # [N, kinds, M, M / 8]
    extract(out, "real", lambda i: vision_pixels(real[i]), len(real), VISION_SIDE)
    extract(out, "synth", lambda i: vision_pixels(synth[i].pixels), len(synth), VISION_SIDE)
    extract(out, "synth", lambda i: sam_pixels(synth[i].pixels)[0], len(synth), SAM_SIDE)
    extract(out, "real", lambda i: sam_pixels(real[i])[0], len(real), SAM_SIDE)
    parts = [draw_scene(rng, good, most=1) for _ in range(PARTS)]
    part_masks = np.stack([low_res(part.masks[0], SAM_SIDE / max(part.pixels.shape)) for part in parts])
    np.save(out / "parts_masks.npy", np.packbits(part_masks, axis=-1))  # [N, M, M / 8]
    extract(out, "parts", lambda i: sam_pixels(parts[i].pixels)[0], len(parts), SAM_SIDE)


if __name__ == "__main__":
    main()

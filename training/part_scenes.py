"""Drawn scenes through the frozen encoder, once: what the part decoder learns from.

`python -m sightline_training.part_scenes` writes `scenes_<name>_<array>.npy` for "train" and "held" (another seed, other cells).
"""

from __future__ import annotations

import argparse
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track
from sightline_export.efficientnet import load_backbone
from sightline_export.tiny import WEIGHTS, load_neck
from sightline_export.tiny_graphs import SamEncoder
from sightline_training.data import cells, picture
from sightline_training.features import MASK_SIDE, SAM_SIDE, sam_pixels
from sightline_training.grounds import GROUNDS
from sightline_training.parts import MOST, Scene, draw_scene

ARRAYS = {
    "embedding": ((256, SAM_SIDE // 16, SAM_SIDE // 16), np.float16),
    "masks": ((MOST, SAM_SIDE, SAM_SIDE // 8), np.uint8),  # bits, in SAM's frame
    "boxes": ((MOST, 4), np.float32),  # x0, y0, x1, y1 in SAM's frame; all 0 where there is no such part
    "size": ((2,), np.int32),  # height and width of the picture in SAM's frame
    "ground": ((), np.int32),  # row of GROUNDS
}


@dataclass(frozen=True)
class Scenes:
    """`count` scenes, arrays as in ARRAYS, read from disk where they are touched."""

    embedding: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    size: np.ndarray
    ground: np.ndarray

    @staticmethod
    def load(folder: Path, name: str) -> Scenes:
        return Scenes(**{key: np.load(folder / f"scenes_{name}_{key}.npy", mmap_mode="r") for key in ARRAYS})

    def __len__(self) -> int:
        return len(self.size)

    def parts(self, row: int) -> int:
        return int((self.boxes[row, :, 2] > 0).sum())

    def full(self, row: int) -> np.ndarray:
        """bool [K, S, S]: the true masks of one scene."""
        return np.unpackbits(self.masks[row, : self.parts(row)], axis=-1).astype(bool)

    def coverage(self, row: int) -> np.ndarray:
        """float32 [K, M, M], 0 to 1: how much of each cell of the low resolution is the part."""
        step = SAM_SIDE // MASK_SIDE
        return self.full(row).reshape(-1, MASK_SIDE, step, MASK_SIDE, step).mean((2, 4), dtype=np.float32)


def framed(scene: Scene) -> dict[str, np.ndarray]:
    """One scene in SAM's frame: `pixels` [S, S, 3], and `masks`, `boxes`, `size`, `ground` as in ARRAYS."""
    pixels, scale = sam_pixels(scene.pixels)
    height, width = (int(side * scale + 0.5) for side in scene.pixels.shape[:2])
    masks, boxes = np.zeros((MOST, SAM_SIDE, SAM_SIDE), bool), np.zeros((MOST, 4), np.float32)
    for k, mask in enumerate(scene.masks):
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        masks[k, :height, :width] = cv2.resize(mask.astype(np.float32), (width, height), interpolation=how) >= 0.5
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[k] = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * scale
    size, ground = np.array([height, width], np.int32), np.array(GROUNDS.index(scene.ground), np.int32)
    return {"pixels": pixels, "masks": np.packbits(masks, axis=-1), "boxes": boxes, "size": size, "ground": ground}


def fill(folder: Path, name: str, start: int, stop: int, seed: int, weights: Path) -> None:
    """Draw and encode scenes start..stop into the arrays that `create` made."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    encoder = SamEncoder(load_backbone(), load_neck(weights / "sam.safetensors"), SAM_SIDE).eval()
    surfaces = [picture(cell) for cell in cells("train" if name == "train" else "val")]
    rng = np.random.default_rng((seed, start))
    arrays = {key: np.load(folder / f"scenes_{name}_{key}.npy", mmap_mode="r+") for key in ARRAYS}
    rows = range(start, stop)
    for row in track(rows, description=f"{name} {start}") if start == 0 else rows:
        scene = framed(draw_scene(rng, surfaces, ground=GROUNDS[row % len(GROUNDS)]))
        with torch.inference_mode():
            pixels = torch.from_numpy(scene["pixels"]).permute(2, 0, 1).unsqueeze(0)
            arrays["embedding"][row] = encoder(pixels, torch.from_numpy(scene["size"]).unsqueeze(0))[0].half().numpy()
        for key in ("masks", "boxes", "ground", "size"):  # a scene with a size is complete
            arrays[key][row] = scene[key]


def create(folder: Path, name: str, count: int, seed: int, weights: Path, workers: int) -> None:
    """Draws and encodes `count` scenes in `workers` processes."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, (shape, dtype) in ARRAYS.items():
        np.lib.format.open_memmap(folder / f"scenes_{name}_{key}.npy", "w+", dtype, (count, *shape)).flush()
    edges = np.linspace(0, count, workers + 1).astype(int)
    processes = [
        multiprocessing.get_context("spawn").Process(target=fill, args=(folder, name, int(a), int(b), seed, weights))
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"drawing scenes for {folder} failed, see above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/train"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of sam.safetensors (default: %(default)s)")
    parser.add_argument("--count", type=int, default=5600)
    parser.add_argument("--held", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    create(arguments.data, "held", arguments.held, arguments.seed + 1, arguments.weights, arguments.workers)
    create(arguments.data, "train", arguments.count, arguments.seed, arguments.weights, arguments.workers)


if __name__ == "__main__":
    main()

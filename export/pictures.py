"""The pictures that an artefact is judged on: real ones, of three shapes, with a box and points each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sightline_ensemble.intake import sam_prompt
from sightline_ensemble.picture import sam_pixels, sam_size

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
PROMPTS = ("box", "points", "both")


class NoPictures(RuntimeError):
    """There are not enough real pictures to judge by; the text says how to name some."""


@dataclass(frozen=True)
class Picture:
    """One picture as the decode step hands it on."""

    name: str
    width: int
    height: int
    sam_pixels: np.ndarray  # uint8 [1, 3, S, S]
    resized: tuple[int, int]  # height, width inside S x S

    def prompt(self, kind: str, side: int) -> tuple[np.ndarray, np.ndarray]:
        """point_coords float32 [1, 1, N, 2] and point_labels [1, 1, N]: the middle three fifths; its centre, not a corner; or both."""
        w, h = self.width, self.height
        box = np.array([[0.2 * w, 0.2 * h, 0.8 * w, 0.8 * h]], np.float32)
        points = np.array([[0.5 * w, 0.5 * h, 1], [0.04 * w, 0.04 * h, 0]], np.float32)
        found = sam_prompt(box if kind != "points" else box[:0], points if kind != "box" else points[:0], h, w, side)
        return found["point_coords"].reshape(1, 1, -1, 2), found["point_labels"].reshape(1, 1, -1)


def _picture(name: str, image: Image.Image, side: int) -> Picture:
    image = image.convert("RGB")
    return Picture(name, image.width, image.height, sam_pixels(image, side), sam_size(image.height, image.width, side))


def real_pictures(count: int, side: int, folder: Path | None = None) -> list[Picture]:
    """`count` real pictures as SAM sees them; see `real_images`."""
    return [_picture(name, image, side) for name, image in real_images(count, folder)]


def real_images(count: int, folder: Path | None = None) -> list[tuple[str, Image.Image]]:
    """`count` real pictures, RGB: of `folder`, or of installed packages (two photographs, then solar cells cut wide, tall and square).

    Raises:
        NoPictures: fewer than `count`.
    """
    found = []
    for name, image in _of_folder(folder) if folder else _of_packages():
        if len(found) == count:
            break
        found.append((name, image.convert("RGB")))
    if len(found) < count:
        where = f"{folder.name} holds" if folder else "the installed packages hold"
        raise NoPictures(
            f"{where} {len(found)} pictures, expected {count}: name a folder of real ones with --images, or fewer with --pictures"
        )
    return found


def _of_folder(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    if not folder.is_dir():
        raise NoPictures(f"{folder.name}: no such folder; expected one with pictures")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            with Image.open(path) as image:
                yield path.name, image.copy()


def _of_packages() -> Iterator[tuple[str, Image.Image]]:
    """Wide, tall and square in turn, so that any three in a row are of three shapes."""
    try:
        from elpv_dataset.utils import load_dataset
        from sklearn.datasets import load_sample_images
    except ImportError:
        return
    photographs = load_sample_images()
    cells, _, _ = load_dataset()
    squares = [(f"elpv {i}", cells[i]) for i in range(0, len(cells), len(cells) // 64)]
    china, flower = photographs.images
    yield "sklearn china (wide)", Image.fromarray(china)
    yield "sklearn flower (tall)", Image.fromarray(flower[:, 150:450])
    for i, (name, cell) in enumerate(squares):
        side = cell.shape[0]
        cut = {0: ("square", cell), 1: ("wide", cell[side // 5 : -side // 5]), 2: ("tall", cell[:, side // 5 : -side // 5])}[i % 3]
        yield f"{name} ({cut[0]})", Image.fromarray(cut[1])


def extreme_picture(side: int) -> Picture:
    """Extreme contrast, where fp16 overflows first: all white, boards of black and white at every scale, noise of 0 and 255."""
    y, x = np.mgrid[0:side, 0:side]
    scale = 1 << (x * 8 // side)
    board = ((x // scale + y // scale) % 2 * 255).astype(np.uint8)
    board[: side // 4] = 255
    pixels = np.repeat(board[..., None], 3, axis=2)
    pixels[-side // 2 :] = np.random.default_rng(0).integers(0, 2, (side // 2, side, 3), np.uint8) * np.uint8(255)
    return _picture("extreme contrast", Image.fromarray(pixels), side)

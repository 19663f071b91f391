"""Six kinds of product that no weight has ever seen, drawn, with six kinds of defect and exact masks, in MVTec-AD's layout.

    python benchmarks/drawn.py --out build/drawn
    python benchmarks/evaluate.py build/drawn --shots 4 --seeds 3

Everything follows from `--seed`. Normal pictures differ as pieces on a line do: position, turn, light, texture, sensor noise.
A defective picture is a normal one, changed inside its mask and nowhere else; `sheet.jpg` shows some of each for the eye.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from drawn_canvas import SIDE, Camera, Product
from drawn_defects import KINDS, changed
from drawn_objects import board, label, screw
from drawn_surfaces import bottle, plate, textile
from harness import ROOT, progress
from PIL import Image, ImageDraw, ImageFont

PRODUCTS: dict[str, Product] = {"textile": textile, "plate": plate, "bottle": bottle, "screw": screw, "label": label, "board": board}
TRIES = 20


@dataclass(frozen=True)
class Amounts:
    """Pictures of each class: normal ones to enrol, normal ones to test, and of each kind of defect."""

    train: int = 30
    good: int = 12
    each: int = 5


def normal(product: str, seed: int, number: int) -> np.ndarray:
    """A normal picture, uint8 [S, S, 3]."""
    camera = Camera.drawn(_random(product, seed, number, "camera"))
    return camera.taken(camera.placed(PRODUCTS[product](_random(product, seed, number, "piece"), False)).image)


def defective(product: str, kind: str, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The normal picture of the same number with a defect, and its mask, bool [S, S]."""
    camera = Camera.drawn(_random(product, seed, number, "camera"))
    whole, without = (camera.placed(PRODUCTS[product](_random(product, seed, number, "piece"), gone)) for gone in (False, True))
    clean = camera.taken(whole.image)
    image, mask = changed(_random(product, seed, number, kind), kind, whole, without)
    return np.where(mask[..., None], camera.taken(image), clean), mask


def _random(product: str, seed: int, number: int, what: str) -> np.random.Generator:
    return np.random.default_rng([seed, number, zlib.crc32(product.encode()), zlib.crc32(what.encode())])


def write(out: Path, seed: int = 0, amounts: Amounts | None = None, products: Sequence[str] = tuple(PRODUCTS)) -> None:
    """The folder; a picture already there is written anew."""
    amounts = amounts or Amounts()
    count = amounts.train + amounts.good + amounts.each * len(KINDS)
    with progress("pictures", count * len(products)) as step:
        for product in products:
            number = 0
            for folder, many in (("train/good", amounts.train), ("test/good", amounts.good)):
                for index in range(many):
                    _save(out / product / folder / f"{index:03d}.png", normal(product, seed, number))
                    number += 1
                    step()
            for kind in KINDS:
                for index in range(amounts.each):
                    image, mask = defective(product, kind, seed, number)
                    _save(out / product / "test" / kind / f"{index:03d}.png", image)
                    _save(out / product / "ground_truth" / kind / f"{index:03d}_mask.png", np.uint8(mask) * 255)
                    number += 1
                    step()


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def contact_sheet(folder: Path, products: Sequence[str] = tuple(PRODUCTS), side: int = 200) -> Image.Image:
    """A row for each class: two normal pictures, and the first of each kind of defect above the same with its mask's outline."""
    columns, head = ("good", "good", *KINDS), 22
    page = Image.new("RGB", (side * len(columns), head + 2 * side * len(products)), (255, 255, 255))
    pen = ImageDraw.Draw(page)
    for column, kind in enumerate(columns):
        pen.text((column * side + 6, 3), kind, fill=(20, 20, 20), font=ImageFont.load_default(14))
        for row, product in enumerate(products):
            for line in (0, 1):
                tile = _tile(folder / product, kind, column if kind == "good" else 0, line, side)
                page.paste(tile, (column * side, head + (2 * row + line) * side))
    return page


def _tile(folder: Path, kind: str, index: int, line: int, side: int) -> Image.Image:
    """Line 0: the picture. Line 1: another normal one, or the next defect of the kind with its mask in red."""
    if kind == "good":
        return Image.open(folder / "test" / "good" / f"{index + 2 * line:03d}.png").resize((side, side), Image.Resampling.LANCZOS)
    image = Image.open(folder / "test" / kind / f"{line:03d}.png").convert("RGB")
    if line:
        mask = Image.open(folder / "ground_truth" / kind / f"{line:03d}_mask.png")
        image.paste((255, 0, 0), mask=mask.point(lambda value: value // 2))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def main(arguments: Sequence[str] | None = None) -> int:
    top = argparse.ArgumentParser(description="Draws products with and without defects, in MVTec-AD's layout.")
    top.add_argument("--out", type=Path, default=ROOT / "build" / "drawn", metavar="DIR", help="default: build/drawn")
    top.add_argument("--seed", type=int, default=0)
    for name, value in (("train", 30), ("good", 12), ("each", 5)):
        top.add_argument(f"--{name}", type=int, default=value, metavar="N", help="pictures a class (default: %(default)s)")
    top.add_argument("--products", nargs="+", choices=PRODUCTS, default=list(PRODUCTS))
    chosen = top.parse_args(arguments)
    cv2.setNumThreads(1)  # the pictures are small
    write(chosen.out, chosen.seed, Amounts(chosen.train, chosen.good, chosen.each), chosen.products)
    if chosen.good >= 4 and chosen.each >= 2:
        contact_sheet(chosen.out, chosen.products).save(chosen.out / "sheet.jpg", quality=88)
    print(f"{chosen.out}: {len(chosen.products)} classes of {SIDE} x {SIDE} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A profile for your own products, from normal pictures only: `python -m sightline_training.products --data FOLDER --name NAME`.

FOLDER has MVTec-AD's layout (`<class>/train/good/*.png`), is one class of it, or just holds normal pictures. Defects are simulated on
them; `<class>/test` and `<class>/ground_truth` are used for the report at the end, never for training. No GPU, no download.

Stages: prepare (simulate, encode), neck (picture tokens), decoder (masks), language (words and verdict), pack (fit, calibrate, judge),
export. One that has ended is not run again. docs/training.md says what to expect.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from sightline_ensemble.contract import PRODUCT_NAME
from sightline_export.tiny import WEIGHTS, export_tiny
from sightline_training import product_data, product_language, product_pack, product_vision
from sightline_training.folder import Folder, read_folder

SHIPPED = "tiny"


@dataclass(frozen=True)
class Steps:
    """How long to train; None: as many pictures as the folder deserves."""

    counts: product_data.Counts | None = None
    neck: int = product_vision.NECK_STEPS
    decoder: int = product_vision.DECODER_STEPS
    language: int = product_language.STEPS
    states: int = product_pack.STATES


@dataclass(frozen=True)
class Order:
    """What to train and where it goes. `work`: features and checkpoints; `out`: deltas, both with a folder for `name`."""

    data: Path
    name: str
    out: Path = Path("products-weights")
    work: Path = Path("build/products")
    repository: Path = Path("model_repository")
    seed: int = 0
    weights: Path = WEIGHTS
    steps: Steps = Steps()


def fingerprint(folder: Folder, order: Order) -> str:
    """Of everything that decides the result."""
    files = [(str(one.path), one.path.stat().st_size, one.path.stat().st_mtime_ns) for one in (*folder.normal, *folder.test)]
    shipped = [(path.name, path.stat().st_size) for path in sorted(order.weights.glob("*.safetensors"))]
    return hashlib.sha256(json.dumps([files, shipped, order.seed, repr(order.steps)]).encode()).hexdigest()


def claim(work: Path, mark: str) -> None:
    """ValueError where the folder holds the beginnings of something else."""
    work.mkdir(parents=True, exist_ok=True)
    known = work / "fingerprint"
    if known.exists() and known.read_text() != mark:
        raise ValueError(f"{work} was begun with other pictures or settings; delete it, or choose another name")
    known.write_text(mark)


def train(order: Order, console: Console) -> None:
    """All stages. ValueError where name, folder or an earlier beginning do not fit."""
    if not re.fullmatch(PRODUCT_NAME, order.name) or order.name == SHIPPED:
        raise ValueError(f"'{order.name}' is no name for a profile, expected 1 to 64 of a-z 0-9 - _, and not '{SHIPPED}'")
    folder = read_folder(order.data)
    work, target, seed, steps = order.work / order.name, order.out / order.name, order.seed, order.steps
    claim(work, fingerprint(folder, order))
    console.print(f"{len(folder.normal)} normal pictures of {', '.join(folder.products)}; {len(folder.test)} to judge by")
    stages: dict[str, Callable[[], None]] = {
        "prepare": lambda: product_data.prepare(folder, work, seed, steps.counts, order.weights),
        "neck": lambda: product_vision.train_neck(work, seed, steps.neck, order.weights),
        "decoder": lambda: product_vision.train_decoder(work, seed, steps.decoder, order.weights),
        "language": lambda: product_language.train_language(work, seed, steps.language, order.weights),
        "pack": lambda: product_pack.pack(work, target, seed, steps.states, order.weights),
        "export": lambda: export_tiny(order.repository, order.name, target, console),
    }
    for name, stage in stages.items():
        done, start = work / f"{name}.done", time.monotonic()
        if done.exists():
            console.print(f"{name}: done before")
            continue
        stage()
        done.touch()
        console.print(f"{name}: {(time.monotonic() - start) / 60:.1f} minutes")
    product_pack.show(work, console)
    console.print(f"serve it: sightline-serve --profile {order.name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sightline_training.products", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="normal pictures, best in MVTec's layout")
    add("--name", default="own", help="the profile's name (default: %(default)s)")
    add("--out", type=Path, default=Order.out, help="trained deltas go into OUT/NAME (default: %(default)s)")
    add("--work", type=Path, default=Order.work, help="features and checkpoints, into WORK/NAME (default: %(default)s)")
    add("--repository", type=Path, default=Order.repository, help="where the profile is installed (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=2)
    chosen = vars(parser.parse_args())
    torch.set_num_threads(chosen.pop("threads"))
    try:
        train(Order(**chosen), Console())
    except (ValueError, OSError) as error:
        print(f"sightline_training.products: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

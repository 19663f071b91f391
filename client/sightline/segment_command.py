"""The command `sightline segment`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from . import show
from .arguments import box, free_name, numbers
from .client import Client
from .errors import NotInspected
from .report import Segment

EXAMPLES = """examples:
  sightline segment board.jpg --box 40,60,310,280 --out parts
  sightline segment board.jpg --point 120,90,1 --point 300,40,0 --out parts --json

exit code: 0, or 2 where a picture could not be cut out"""


def add(commands: Any, command: Any) -> None:
    """Adds it to the parser. `command(commands, name, run, text, epilog)` makes one that names its server."""
    segment = command(commands, "segment", run, "cut a part out: a PNG without its background, and the mask", EXAMPLES)
    segment.add_argument("images", nargs="+", metavar="IMAGE")
    segment.add_argument("--box", type=box, metavar="X0,Y0,X1,Y1", help="the part is inside, in pixels")
    segment.add_argument(
        "--point", type=numbers("X,Y,LABEL"), action="append", metavar="X,Y,LABEL", help="1: on the part, 0: beside it; repeat it for more"
    )
    segment.add_argument("--out", type=Path, required=True, metavar="DIR", help="NAME_cutout.png and NAME_mask.png are written there")
    segment.add_argument("--json", action="store_true", help="print one line a picture")


def run(client: Client, args: argparse.Namespace) -> int:
    console, code = Console(), 0
    taken: set[str] = set()
    args.out.mkdir(parents=True, exist_ok=True)
    for image in args.images:
        try:
            found = client.segment(image, box=args.box, points=args.point)
        except NotInspected as error:
            code = 2
            show.failure(console, image, error, args.json)
            continue
        written = _write(found, args.out, free_name(image, taken))
        if args.json:
            print(show.line({"image": image, "request_id": found.request_id, **written}), flush=True)
        else:
            words = f"{image}  IoU {found.iou:.2f}  {written['area']} px  {written['cutout']}  {written['mask']}"
            console.print(words, markup=False, highlight=False, soft_wrap=True)
    return code


def _write(found: Segment, folder: Path, name: str) -> dict[str, Any]:
    mask = Image.fromarray(found.mask * 255)
    paths = {"cutout": folder / f"{name}_cutout.png", "mask": folder / f"{name}_mask.png"}
    paths["cutout"].write_bytes(found.cutout)
    mask.save(paths["mask"])
    edges = mask.getbbox()
    told = {"iou": found.iou, "area": int(found.mask.sum()), "box": None if edges is None else list(map(float, edges))}
    return {**told, "size": list(found.mask.shape), **{key: str(path) for key, path in paths.items()}}

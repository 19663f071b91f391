"""Contact sheet: the first 40 defective cells of the test part, in order, none left out, as the running server answers them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness import progress, serving
from PIL import Image
from sheet import Tile, sheet
from sightline import Client
from sightline_training.data import cells

COUNT = 40
OUT = Path(__file__).resolve().parents[1] / "training" / "defective.jpg"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", metavar="HOST:PORT", help="gRPC address of a running server (default: one of our own)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="the picture (default: %(default)s)")
    arguments = parser.parse_args()
    chosen, tiles = [cell for cell in cells("test") if cell.defective][:COUNT], []
    with serving("contact", "tiny", arguments.url) as target, Client(target.url) as client, progress("cells", COUNT) as step:
        for cell in chosen:
            known = f"{cell.kind}, labelled defective with probability {cell.probability:.2f}"
            tiles.append(Tile(Image.open(cell.path).convert("RGB"), client.inspect(cell.path), known))
            step()
    page = sheet(tiles)
    page.resize((page.width * 2 // 3, page.height * 2 // 3), Image.Resampling.LANCZOS).save(arguments.out, quality=72)
    found = sum(tile.report.anomaly for tile in tiles)
    print(f"{found} of {len(tiles)} found defective; {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

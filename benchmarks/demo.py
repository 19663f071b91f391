"""`make demo`: the real server inspects eight real solar cells that no weight has seen, four good and four defective.

Exit 0 only where every step ran on its own artefacts, at least seven verdicts are right, and nothing of the server is left.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import sightline
from harness import REPOSITORY, ROOT
from latency import spread
from memory import family
from rich.console import Console
from sheet import Tile, sheet
from sightline import draw, show
from sightline_ensemble.artefacts import repository_hashes
from sightline_ensemble.contract import CLOCKS
from sightline_ensemble.serve import processes
from sightline_ensemble.serve.running import running
from sightline_training.data import Cell, cells

PROFILE = "tiny"
OUT = ROOT / "build" / "demo"
NEEDED = 7  # right verdicts of eight
# Chosen by eye from the test part, before any answer was seen, for what they show.
SHOWN = {
    "images/cell1598.png": "a clean cell",
    "images/cell0479.png": "a crack from the top right to the bottom",
    "images/cell0904.png": "a clean cell with dashed busbars",
    "images/cell0048.png": "a large dark blot",
    "images/cell2394.png": "a clean cell with crystal grain",
    "images/cell0515.png": "a shattered cell, a fragment dark",
    "images/cell0357.png": "a clean cell with strong grain",
    "images/cell0616.png": "interrupted fingers, dark strips",
}
STEPS = {clock.name.removesuffix("_clock") for clock in CLOCKS} | {"report", "total"}
PRODUCT, DESCRIPTION = "solar-cell", "This is an electroluminescence image of a solar cell."
GOOD = 16  # normal cells of the training part from which the product is enrolled


def main() -> int:
    console = Console(soft_wrap=True, highlight=False)
    (OUT / "cells").mkdir(parents=True, exist_ok=True)
    by_name = {cell.name: cell for cell in cells("test")}
    console.print("starting tritonserver …")
    with tempfile.TemporaryDirectory() as products:
        with running("--repository", str(REPOSITORY), "--profile", PROFILE, "--products", products) as server:
            started = [processes.process(pid) for pid in family(server.process.pid)]
            console.print(f"{len(started)} processes serve the pipeline at {server.grpc}\n")
            with sightline.Client(server.grpc) as client:
                problems = inspections(client, [by_name[name] for name in SHOWN], console) + product(client, by_name, console)
            status = server.stop()
    problems += leftovers(started, server.process.pid)
    if status:
        problems.append(f"sightline-serve ended with status {status}")
    for problem in problems:
        console.print(f"[bold red]failed[/] {problem}")
    if not problems:
        console.print(f"server stopped, nothing left behind; pictures in {OUT.relative_to(ROOT)}/")
    return 1 if problems else 0


def inspections(client: sightline.Client, chosen: list[Cell], console: Console) -> list[str]:
    """Inspects and draws each cell; what went wrong, in words."""
    tiles, right, problems = [], 0, []
    for cell in chosen:
        report = client.inspect(cell.path)
        known = f"{'defective' if cell.defective else 'good'}: {SHOWN[cell.name]}"
        correct = report.anomaly == cell.defective
        right += correct
        tell(console, cell, report, f"label {known}" + ("" if correct else "  [bold yellow]wrong[/]"))
        draw.overlay(cell.path, report).save(OUT / f"{Path(cell.name).stem}_overlay.png")
        shutil.copy(cell.path, OUT / "cells")  # samples for `sightline web`
        tiles.append(Tile(sightline.pictures.to_rgb(cell.path), report, known))
        problems += [f"{cell.name}: {what}" for what in ran(report)]
    sheet(tiles).quantize(128).save(OUT / "sheet.png", optimize=True)
    console.print(f"{right} of {len(chosen)} verdicts agree with the labels\n")
    return problems if right >= NEEDED else [*problems, f"only {right} of {len(chosen)} verdicts agree with the labels"]


def ran(report: sightline.Report) -> list[str]:
    """What shows that a step did not run, or not on the artefacts that lie in the repository."""
    missing = sorted(STEPS - report.timings_ms.keys())
    found = [f"the report has no time for {', '.join(missing)}"] if missing else []
    if report.artefacts != repository_hashes(REPOSITORY, PROFILE):
        found.append("the report's artefacts are not those of the repository")
    if not report.text:
        found.append("the report has no sentence")
    return found


def product(client: sightline.Client, by_name: dict[str, Cell], console: Console) -> list[str]:
    """Enrols a product from good cells of the training part and inspects the same cells with it: now the expert speaks too."""
    good = spread([cell for cell in cells("train") if not cell.probability], GOOD)
    begin = time.monotonic()
    client.enroll(PRODUCT, [cell.path for cell in good], description=DESCRIPTION)
    console.print(f"enrolled product {PRODUCT} from {len(good)} good cells in {time.monotonic() - begin:.1f} s")
    tiles = []
    for name in SHOWN:
        report = client.inspect(by_name[name].path, product=PRODUCT)
        if not report.experts or report.heatmap is None:
            return [f"{name}: the few-shot expert did not speak"]
        tell(console, by_name[name], report, f"{report.experts[0].text}")
        draw.overlay(by_name[name].path, report).save(OUT / f"{Path(name).stem}_product.png")
        known = f"expert {report.experts[0].score:.2f} · label {'defective' if by_name[name].defective else 'good'}"
        tiles.append(Tile(sightline.pictures.to_rgb(by_name[name].path), report, known, map=True))
    sheet(tiles).quantize(128).save(OUT / "product_sheet.png", optimize=True)
    console.print()
    return []


def tell(console: Console, cell: Cell, report: sightline.Report, remark: str) -> None:
    console.print(show.verdict_line(Path(cell.name).name, report))
    console.print(f"  {report.text}", markup=False)
    console.print(f"  [dim]{remark} · mask after {report.time_to_mask_ms:.0f} ms, all in {report.timings_ms['total']:.0f} ms[/]")


def leftovers(started: list[processes.Process | None], supervisor: int) -> list[str]:
    """Processes that outlived the server, and files it left in shared memory or the temporary directory."""
    now = [(was, processes.process(was.pid)) for was in started if was is not None]
    alive = [str(was.pid) for was, found in now if found is not None and found.started == was.started]
    places = (processes.SHARED_MEMORY, Path(tempfile.gettempdir()))
    files = sorted(str(path) for place in places for path in place.glob(f"sightline_{supervisor}_*"))
    found = [f"processes are left: {', '.join(alive)}"] if alive else []
    return [*found, f"files are left: {', '.join(files)}"] if files else found


if __name__ == "__main__":
    sys.exit(main())

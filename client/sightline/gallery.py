"""What a batch found as one HTML page: the counts, the anomalies with their overlays, what was not inspected and why.

The overlays are inside the page as JPEG: one file can be mailed and kept, and no folder gets lost beside it. 1,000 of them are about
16 MB, which a browser opens at once because it decodes only what is seen; beyond MOST the page would not stay usable.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

from .draw import thumbnail
from .errors import NotInspected
from .report import Report
from .summary import Row, replaced

LONGEST, QUALITY = 360, 80  # of an overlay: pixels, and JPEG's scale
MOST = 2000  # overlays
# Names and sentences come from elsewhere: all of it is escaped, and the page may neither run nor load anything.
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5d646b; --paper: #fff; --card: #f4f5f6; --line: #d5d9dd;
  --normal: #00735a; --anomaly: #b02a12; --missing: #7a5200; }
@media (prefers-color-scheme: dark) { :root { --ink: #eceef0; --soft: #a5adb5; --paper: #16181b; --card: #212428; --line: #3a3f45;
  --normal: #4cc9a6; --anomaly: #ff8a70; --missing: #e9b949; } }
body { margin: 0 auto; max-width: 1500px; padding: 1.5rem;
  background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; } h2 { margin: 2rem 0 .8rem; font-size: 1.15rem; }
.soft, figcaption .name { color: var(--soft); font-size: .87rem; } .name { overflow-wrap: anywhere; }
.counts { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
.counts li { min-width: 9rem; padding: .6rem 1rem; border-left: 6px solid; background: var(--card); }
.counts b { display: block; font-size: 1.9rem; line-height: 1.15; }
.anomaly { color: var(--anomaly); } .normal { color: var(--normal); } .missing { color: var(--missing); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); content-visibility: auto; contain-intrinsic-size: auto 430px; break-inside: avoid; }
figure img { display: block; width: 100%; height: 300px; object-fit: contain; background: #0b0c0d; }
figcaption { padding: .6rem .8rem .8rem; } figcaption p { margin: .3rem 0; }
table { width: 100%; border-collapse: collapse; } td, th { padding: .3rem .6rem .3rem 0; border-top: 1px solid var(--line);
  text-align: left; vertical-align: top; } td + td { white-space: pre-wrap; } summary { cursor: pointer; }
</style></head><body>
"""


@dataclass(frozen=True)
class Heading:
    """What stands above: the folder, and what was asked."""

    title: str
    asked: str = ""


def write_html(path: Path, heading: Heading, found: Sequence[Row], drawn: Callable[[], object] = lambda: None) -> None:
    """`drawn` is called after each overlay."""
    with replaced(path) as file:
        for piece in _page(path, heading, found, drawn):
            file.write(piece)


def anomalies(found: Iterable[Row]) -> list[tuple[Path, Report]]:
    """The highest score first."""
    named = [(row.path, row.report) for row in found if row.report and row.report.anomaly]
    return sorted(named, key=lambda pair: (-pair[1].score, pair[0]))


def _page(path: Path, heading: Heading, found: Sequence[Row], drawn: Callable[[], object]) -> Iterator[str]:
    bad, good = anomalies(found), [row for row in found if row.verdict == "normal"]
    missing = [row for row in found if row.report is None]
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    yield HEAD.replace("{title}", escape(f"{heading.title}: {len(bad)} anomalous of {len(found)}"))
    yield f'<header><h1><bdi>{escape(heading.title)}</bdi></h1><p class="soft">{len(found)} pictures · {escape(when)}'
    yield f" · {escape(heading.asked)}</p>\n" if heading.asked else "</p>\n"
    yield '<ul class="counts">'
    for name, words, count in (("anomaly", "anomalous", bad), ("normal", "normal", good), ("missing", "NOT INSPECTED", missing)):
        yield f'<li class="{name}"><b>{len(count)}</b>{words}</li>'
    yield "</ul></header>\n"
    if missing:
        yield '<section id="not-inspected"><h2 class="missing">! Not inspected: these have no verdict</h2>\n<table>'
        yield from (_line(row.path, path, row.error) for row in missing)
        yield "</table></section>\n"
    yield f'<section id="anomalies"><h2 class="anomaly">✗ Anomalous, highest score first</h2>\n{_left_out(len(bad))}<div class="gallery">\n'
    for number, (picture, report) in enumerate(bad):
        yield _card(picture, report, path, number < MOST)
        drawn()
    yield "</div></section>\n"
    yield f'<section id="normal"><details><summary><h2 class="normal" style="display:inline">✓ Normal ({len(good)})</h2></summary>\n<table>'
    yield from (_line(row.path, path, f"score {row.report.score_text}") for row in good if row.report)
    yield "</table></details></section>\n</body></html>\n"


def _left_out(count: int) -> str:
    return f'<p class="soft">Overlays of the first {MOST} only.</p>\n' if count > MOST else ""


def _line(picture: Path, page: Path, words: str) -> str:
    return f"<tr><td>{_link(picture, page, _name(picture))}</td><td>{escape(words)}</td></tr>\n"


def _card(picture: Path, report: Report, page: Path, with_overlay: bool) -> str:
    places = ", ".join(report.locations)
    head = f'<b class="anomaly">✗ score {report.score_text}</b> {escape(places)}'
    shown = _overlay(picture, report, f"{picture.name}: {places}") if with_overlay else ""
    caption = f"<figcaption>{head}<p>{escape(report.text)}</p>{_name(picture)}</figcaption>"
    return f"<figure>{_link(picture, page, shown)}{caption}</figure>\n"


def _name(picture: Path) -> str:
    return f'<bdi class="name">{escape(str(picture))}</bdi>'


def _link(picture: Path, page: Path, shown: str) -> str:
    """To the picture itself, relative to the page: both may be moved together."""
    target = quote(Path(os.path.relpath(picture, page.parent)).as_posix(), safe="/", errors="surrogateescape")
    return f'<a href="{escape(target)}">{shown}</a>' if shown else ""


def _overlay(picture: Path, report: Report, words: str) -> str:
    try:
        drawn = thumbnail(picture, report, LONGEST)
    except (NotInspected, ValueError) as error:  # gone, or another picture by now
        return f'<p class="missing">no overlay: {escape(str(error))}</p>'
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{drawn.width}" height="{drawn.height}"'
    return f'<img loading="lazy" decoding="async" {size} alt="{escape(words)}" src="data:image/jpeg;base64,{data}">'

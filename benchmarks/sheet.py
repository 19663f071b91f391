"""One picture of a whole demo: every cell with what was found on it, its label and the server's sentence."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from sightline.draw import ANOMALY, INK, NORMAL, PAPER, SOFT, heated, marked
from sightline.report import Report

SIDE, GAP, COLUMNS = 300, 14, 4
HEAD, LINE, LINES = 34, 17, 4


@dataclass(frozen=True)
class Tile:
    """A picture, what the server said about it and a line about what is known of it."""

    image: Image.Image
    report: Report
    known: str
    map: bool = False  # show the expert's map instead of the masks


def sheet(tiles: list[Tile]) -> Image.Image:
    """The tiles in rows of four."""
    height = HEAD + SIDE + LINE * (LINES + 1) + GAP
    rows = -(-len(tiles) // COLUMNS)
    page = Image.new("RGB", (GAP + COLUMNS * (SIDE + GAP), GAP + rows * (height + GAP)), PAPER)
    for index, tile in enumerate(tiles):
        _draw(page, tile, GAP + index % COLUMNS * (SIDE + GAP), GAP + index // COLUMNS * (height + GAP))
    return page


def _draw(page: Image.Image, tile: Tile, left: int, top: int) -> None:
    pen, report, large, small = ImageDraw.Draw(page), tile.report, ImageFont.load_default(18), ImageFont.load_default(13)
    pen.rectangle((left, top, left + SIDE - 1, top + HEAD), fill=ANOMALY if report.anomaly else NORMAL)
    pen.text((left + 8, top + HEAD / 2), report.verdict.upper(), fill=PAPER, font=large, anchor="lm")
    pen.text((left + SIDE - 8, top + HEAD / 2), f"score {report.score_text}", fill=PAPER, font=small, anchor="rm")
    scale = SIDE / max(tile.image.size)
    use_map = tile.map and report.heatmap is not None
    drawn = heated(tile.image, report.heatmap, scale) if use_map else marked(tile.image, report, scale)
    page.paste(drawn, (left, top + HEAD))
    y = top + HEAD + SIDE + 4
    pen.text((left, y), tile.known, fill=SOFT, font=small)
    for number, line in enumerate(wrapped(report.text, small, SIDE)[:LINES]):
        pen.text((left, y + LINE * (number + 1)), line, fill=INK, font=small)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines

"""A picture that says at a glance what was found: banner, outlined defects, the expert's map, the sentence."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from .pictures import Picture, to_rgb
from .report import Box, Report

PANEL = (420, 1280)  # shortest and longest allowed longest side of a drawn picture
MARGIN = 20
MOST_TAGS = 8  # more labels would hide what they name
NARROWEST = 460  # of a page, so that its banner fits above a slim picture
PAPER, INK, SOFT = (255, 255, 255), (28, 30, 33), (105, 110, 117)
# Blue-green and vermilion: told apart by every kind of colour vision, and the banner has a word and a symbol besides.
NORMAL, ANOMALY = (0, 115, 90), (190, 45, 20)
DEFECT, PART = (255, 72, 28), (86, 180, 233)
# Dark blue over magenta to pale yellow, even in lightness, so that it also reads in grey.
RAMP = np.array([(10, 8, 45), (75, 15, 110), (150, 40, 115), (222, 75, 80), (252, 150, 70), (252, 250, 180)], np.float32)


def overlay(picture: Picture, report: Report, heatmap: bool = True) -> Image.Image:
    """RGB picture with everything the report says. ValueError if `picture` has another size than the one inspected."""
    image = _inspected(picture, report)
    scale = _scale(image.size)
    panels = [(marked(image, report, scale), _found(report))]
    if heatmap and report.heatmap is not None and report.experts:
        panels.append((heated(image, report.heatmap, scale), _expert(report)))
    elif heatmap:  # without an expert its map is empty: the bare picture tells more
        panels.append((image.resize(_scaled(image.size, scale), Image.Resampling.LANCZOS), "as taken"))
    return _page(panels, report)


def thumbnail(picture: Picture, report: Report, longest: int) -> Image.Image:
    """Only the picture with its defects, `longest` pixels on its longest side. ValueError as `overlay`."""
    image = _inspected(picture, report)
    return marked(image, report, longest / max(image.size))


def marked(image: Image.Image, report: Report, scale: float) -> Image.Image:
    """The picture, enlarged by `scale`, with defects filled and outlined, and the part's outline."""
    size = _scaled(image.size, scale)
    drawn = image.resize(size, Image.Resampling.LANCZOS)
    stroke = max(2, round(max(size) / 300))
    if report.part is not None:
        _outline(drawn, _fit(report.part.mask, size), PART, stroke, fill=0.0)
    for defect in report.defects:
        _outline(drawn, _fit(defect.mask, size), DEFECT, stroke, fill=0.22)
    for defect in sorted(report.defects, key=lambda defect: -defect.score)[:MOST_TAGS]:
        _tag(drawn, f"{defect.location} {defect.score:.2f}", defect.box, scale)
    return drawn


def heated(image: Image.Image, heatmap: npt.NDArray[Any], scale: float) -> Image.Image:
    """The grey picture under the expert's map (UINT8 [H', W']), with a colour bar from 0 to 1."""
    size = _scaled(image.size, scale)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS), np.float32)[..., None]
    level = np.asarray(Image.fromarray(heatmap).resize(size, Image.Resampling.BICUBIC), np.float32)[..., None] / 255
    weight = 0.35 + 0.45 * level
    return Image.fromarray(np.uint8(grey * 0.85 * (1 - weight) + _colours(level[..., 0]) * weight))


def _inspected(picture: Picture, report: Report) -> Image.Image:
    image = to_rgb(picture)
    if (image.height, image.width) != report.size:
        raise ValueError(f"the picture is {image.height} x {image.width}, the report is about {report.size[0]} x {report.size[1]}")
    return image


def _page(panels: list[tuple[Image.Image, str]], report: Report) -> Image.Image:
    """Banner above, panels with their captions side by side, the sentence below."""
    width = max(NARROWEST, sum(panel.width for panel, _ in panels) + MARGIN * (len(panels) + 1))
    unit = max(17, min(34, width // 46))
    banner, caption, body = round(unit * 3.0), round(unit * 2.0), _wrap(report.text, _font(unit), width - 2 * MARGIN)
    top = banner + MARGIN
    below = top + panels[0][0].height + caption
    page = Image.new("RGB", (width, below + round(len(body) * unit * 1.4) + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    _banner(pen, report, width, banner, unit)
    left = MARGIN
    for index, (panel, words) in enumerate(panels):
        page.paste(panel, (left, top))
        room = panel.width - (unit * 9 if index else 0)
        line = _shorten(words, _font(unit * 0.8), room)
        pen.text((left, top + panel.height + unit * 0.55), line, fill=SOFT, font=_font(unit * 0.8))
        if index:
            _bar(page, left + panel.width, top + panel.height + round(unit * 0.6), unit)
        left += panel.width + MARGIN
    for index, line in enumerate(body):
        pen.text((MARGIN, below + index * unit * 1.4), line, fill=INK, font=_font(unit))
    return page


def _banner(pen: ImageDraw.ImageDraw, report: Report, width: int, height: int, unit: int) -> None:
    pen.rectangle((0, 0, width, height), fill=ANOMALY if report.anomaly else NORMAL)
    middle, radius = height / 2, unit * 0.95
    _symbol(pen, MARGIN + radius, middle, radius, report.anomaly)
    word = report.verdict.upper()
    left = MARGIN + radius * 2 + unit * 0.7
    pen.text((left, middle), word, fill=PAPER, font=_font(unit * 1.6), anchor="lm")
    score = f"score {report.score_text}"
    pen.text((width - MARGIN, middle), score, fill=PAPER, font=_font(unit * 1.1), anchor="rm")
    left += pen.textlength(word, _font(unit * 1.6)) + unit
    room = width - MARGIN - pen.textlength(score, _font(unit * 1.1)) - unit - left
    places = _shorten(", ".join(report.locations), _font(unit * 1.1), room)
    pen.text((left, middle), places, fill=PAPER, font=_font(unit * 1.1), anchor="lm")


def _symbol(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, anomaly: bool) -> None:
    """A tick in a disc, or an exclamation mark in a triangle: the shape tells them apart without colour."""
    line = max(3, round(r / 4))
    if anomaly:
        pen.polygon([(x, y - r), (x + r * 1.08, y + r * 0.85), (x - r * 1.08, y + r * 0.85)], fill=PAPER)
        pen.line([(x, y - r * 0.4), (x, y + r * 0.25)], fill=ANOMALY, width=line)
        pen.ellipse((x - line * 0.6, y + r * 0.42, x + line * 0.6, y + r * 0.42 + line * 1.2), fill=ANOMALY)
    else:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=PAPER)
        tick = [(x - r * 0.45, y + r * 0.02), (x - r * 0.12, y + r * 0.38), (x + r * 0.5, y - r * 0.36)]
        pen.line(tick, fill=NORMAL, width=line, joint="curve")


def _outline(drawn: Image.Image, mask: Image.Image, colour: tuple[int, int, int], stroke: int, fill: float) -> None:
    """Draws outside the mask's edge, with a dark rim, so that the defect itself stays visible on light and dark ground."""
    inner = _grow(mask, stroke)
    ring = ImageChops.subtract(inner, mask)
    rim = ImageChops.subtract(_grow(inner, max(1, stroke // 2)), inner)
    drawn.paste((0, 0, 0), mask=rim.point(lambda v: v * 0.7))
    if fill:
        drawn.paste(colour, mask=mask.point(lambda v: v * fill))
    drawn.paste(colour, mask=ring)


def _grow(mask: Image.Image, pixels: int) -> Image.Image:
    return mask.filter(ImageFilter.MaxFilter(2 * pixels + 1))


def _fit(mask: npt.NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """The mask at the drawn size: smooth when enlarged, and a thin crack never vanishes when made smaller."""
    shrinks = size[0] < mask.shape[1]
    resized = Image.fromarray(mask * 255).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    return resized.point(lambda v: 255 if v >= (1 if shrinks else 128) else 0)


def _tag(drawn: Image.Image, words: str, box: Box, scale: float) -> None:
    """A label above the defect, below it where there is no room, always inside the picture."""
    font = _font(max(13, max(drawn.size) / 38))
    pen = ImageDraw.Draw(drawn)
    width, height = pen.textlength(words, font) + 10, font.size * 1.35
    gap = max(drawn.size) / 60
    x = min(max(0.0, box[0] * scale), drawn.width - width)
    y = box[1] * scale - height - gap
    if y < 0:
        y = min(box[3] * scale + gap, drawn.height - height)
    pen.rectangle((x, y, x + width, y + height), fill=ANOMALY)
    pen.text((x + 5, y + height / 2), words, fill=PAPER, font=font, anchor="lm")


def _bar(page: Image.Image, right: int, top: int, unit: int) -> None:
    """The map's colour scale, ending at `right`."""
    pen, width, height = ImageDraw.Draw(page), unit * 6, round(unit * 0.8)
    font = _font(unit * 0.75)
    left = right - width - round(unit * 0.8)
    page.paste(Image.fromarray(np.uint8(_colours(np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))))), (left, top))
    pen.text((left - unit * 0.25, top + height / 2), "0", fill=SOFT, font=font, anchor="rm")
    pen.text((left + width + unit * 0.25, top + height / 2), "1", fill=SOFT, font=font, anchor="lm")


def _colours(level: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Float RGB [H, W, 3] for levels [H, W] of 0 to 1."""
    steps = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(level, steps, RAMP[:, channel]) for channel in range(3)], axis=-1)


def _found(report: Report) -> str:
    count = len(report.defects)
    places = "no defect" if not count else "1 defect" if count == 1 else f"{count} defects"
    return f"{places} · {report.size[1]} x {report.size[0]} px" + (" · part outlined in blue" if report.part else "")


def _expert(report: Report) -> str:
    if not report.experts:
        return "expert's map"
    return " · ".join(f"{expert.name.replace('_', '-')} expert {expert.score:.2f}" for expert in report.experts)


def _scale(size: tuple[int, int]) -> float:
    longest = max(size)
    return min(max(longest, PANEL[0]), PANEL[1]) / longest


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))  # with a size it is never the bitmap font


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(_shorten(word, font, width))
        else:
            lines[-1] = _shorten(longer, font, width)
    return lines


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "…"

"""What is drawn for the page: the picture with its box, and the layers of an answer."""

from __future__ import annotations

import logging
from dataclasses import replace

from PIL import Image, ImageDraw

from .. import draw
from ..errors import InvalidInput, NotInspected, ServerFault
from ..pictures import to_rgb
from ..report import Box, Report
from .session import Point, Session

LOG = logging.getLogger(__name__)
DEFECTS, MAP, PLAIN = "Defects", "Expert's map", "Picture"
LAYERS = (DEFECTS, MAP, PLAIN)
SMALLEST, LARGEST = 480, 1280  # longest side of what the browser is sent


def opened(name: str, content: bytes) -> Session:
    """A picture just taken in. One that cannot be shown here is inspected all the same: the server says what is wrong with it."""
    try:
        image = to_rgb(content)
        longest = max(image.size)
        scale = min(max(longest, SMALLEST), LARGEST) / longest
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return Session(name, content, image.resize(size, Image.Resampling.LANCZOS), scale)
    except NotInspected:
        return Session(name, content)
    except Exception:  # of a decoder, or for want of memory: whatever it is, the picture before must not stay on the page
        LOG.exception("showing %s", name)
        return Session(name, content)


def view(session: Session, box: Box | None) -> Image.Image | None:
    """The picture with its box, or with the corner that was clicked first."""
    if session.seen is None or (box is None and session.corner is None):
        return session.seen
    drawn, scale = session.seen.copy(), session.scale
    pen = ImageDraw.Draw(drawn)
    for colour, width in (((0, 0, 0), 5), (draw.PART, 3)):
        if box is not None:
            pen.rectangle([value * scale for value in box], outline=colour, width=width)
        elif session.corner is not None:
            x, y = (value * scale for value in session.corner)
            pen.line([(x - 12, y), (x + 12, y)], fill=colour, width=width)
            pen.line([(x, y - 12), (x, y + 12)], fill=colour, width=width)
    return drawn


def layer(session: Session, report: Report, name: str) -> Image.Image | None:
    """The answer drawn on the picture; the plain picture where the expert did not speak."""
    if session.seen is None:
        return None
    image = to_rgb(session.picture)
    if (image.height, image.width) != report.size:  # then the verdict may be about another picture
        raise ServerFault(f"the report is about {report.size[0]} x {report.size[1]}, the picture is {image.height} x {image.width}")
    scale = max(session.seen.size) / max(image.size)
    if name == DEFECTS:
        return draw.marked(image, report, scale)
    if name == MAP and report.heatmap is not None and report.experts:
        return draw.heated(image, report.heatmap, scale)
    return session.seen


def spanned(first: Point, second: Point) -> Box | None:
    """The box between two corners; None where it holds nothing."""
    (x0, x1), (y0, y1) = sorted((first[0], second[0])), sorted((first[1], second[1]))
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None


def read_box(text: str) -> Box | None:
    """`x0, y0, x1, y1`, or None for an empty field. Whether it lies inside the picture the server judges."""
    if not (text or "").strip():
        return None
    try:
        x0, y0, x1, y1 = map(float, text.replace(";", ",").split(","))
    except ValueError:
        raise InvalidInput(f"BOX: expected four numbers left, top, right, bottom in pixels, got {text!r}", "INVALID_ARGUMENT") from None
    return x0, y0, x1, y1


def write_box(box: Box) -> str:
    return ", ".join(f"{value:.0f}" for value in box)


def without_corner(session: Session) -> Session:
    return replace(session, corner=None)

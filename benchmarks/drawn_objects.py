"""Drawn products, second half: a screw in side view, a printed label, a small circuit board."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from drawn_canvas import FINE, Colour, Random, Scene, blurred, box, disc, field, grid, ground, lines, paint, polygon, shade
from PIL import Image, ImageDraw, ImageFont

PITCH, THREADS = 24, 16  # of the screw's thread, pixels and turns
SHANK = (206, 590)  # x of the thread's ends


def screw(rng: Random, missing: bool) -> Scene:
    """A zinc screw with a pan head on a light table. Missing: its tip, broken off."""
    image = ground((196, 193, 186))
    shade(image, 0.012 * field(rng, 60) + 0.008 * rng.standard_normal((FINE, FINE)))
    x, y = grid()
    middle, cut, ragged = FINE / 2, rng.uniform(500, 530), rng.uniform(-8, 8, 5)
    end = SHANK[1] - 60
    core = [(190, middle - 38), (end, middle - 38), (SHANK[1] + 6, middle), (end, middle + 38), (190, middle + 38)]
    body = np.maximum(polygon(core), _thread(middle, end))
    head = np.maximum(box(70, middle - 104, 240, middle + 104, 40) * (x < 140), polygon(_neck(middle)))
    whole = np.maximum(body, head)
    if missing:
        edge = [(cut + r, middle - 70 + 35 * i) for i, r in enumerate(ragged)]
        keep = 1 - polygon([*edge, (FINE, middle + 70), (FINE, middle - 70)])
        whole = whole * keep
    shade(image, -0.35 * np.clip(blurred(np.roll(whole, (12, 5), (0, 1)), 8) - whole, 0, 1))
    half = np.where(x < 150, 104, 55)
    around = np.clip(1 - ((y - middle + 0.25 * half) / half) ** 2, 0, 1)
    tone = 78 + 120 * around + 6 * field(rng, 120) + 3 * rng.standard_normal((FINE, FINE))
    slant = (x - SHANK[0] + 0.16 * (y - middle)) / PITCH
    ridge = np.where((x > SHANK[0]) & (x < SHANK[1]), 0.30 * np.cos(2 * np.pi * slant), 0)
    tone = tone * (1 + ridge)
    paint(image, whole, tone[..., None] * np.array((1.0, 1.0, 1.02)))
    outline = np.clip(whole - blurred(whole, 2.5), 0, 1)
    shade(image, -0.7 * outline)
    paint(image, box(66, middle - 12, 96, middle + 12) * head, (52, 52, 54))
    return Scene(image, (cv2.erode(whole, np.ones((7, 7))) > 0.9).astype(np.uint8))


@cache
def _thread(middle: float, end: float) -> np.ndarray:
    """The ridges above and below the core."""
    found = np.zeros((FINE, FINE), np.float32)
    for turn in range(THREADS):
        left = SHANK[0] + turn * PITCH
        for sign in (-1, 1):
            shift = 0 if sign < 0 else PITCH / 2
            a, tip, b = left + shift, left + shift + PITCH / 2, left + shift + PITCH
            if b > SHANK[1] - 10:
                continue
            room = 38 * min(1.0, (SHANK[1] + 6 - tip) / (SHANK[1] + 6 - end))
            base, top = middle + sign * (room - 4), middle + sign * (room + 17)
            found = np.maximum(found, polygon([(a, base), (tip - 3, top), (tip + 3, top), (b, base)]))
    return found


def _neck(middle: float) -> list[tuple[float, float]]:
    return [(138, middle - 104), (150, middle - 100), (164, middle - 52), (206, middle - 38), (206, middle + 38), (164, middle + 52),
            (150, middle + 100), (138, middle + 104)]  # fmt: skip


BLUE, RED, INK = (28, 62, 120), (196, 52, 40), (50, 50, 54)
WORDS = (
    (76, 70, 62, "NORDWIND", BLUE), (78, 142, 36, "Precision Gear Oil", INK), (78, 194, 28, "Article 4711-2026-B", INK),
    (78, 229, 28, "Viscosity ISO VG 220", INK), (78, 264, 28, "Contents 1.0 litre", INK), (78, 299, 28, "Store dry at 5 to 30 C", INK),
    (78, 536, 26, "4 006381 333931", INK),
)  # fmt: skip


def label(rng: Random, missing: bool) -> Scene:
    """A printed label with a mark, text and a bar code on a grey can. Missing: the words of one line, but the first."""
    image = ground((112, 116, 122))
    shade(image, 0.02 * field(rng, 120) + 0.012 * rng.standard_normal((FINE, FINE)))
    paper = box(44, 40, 596, 600, 14)
    shade(image, -0.3 * np.clip(blurred(np.roll(paper, (5, 5), (0, 1)), 5) - paper, 0, 1))
    fibre = 240 + 2.0 * field(rng, 12) + 1.5 * field(rng, 4)
    paint(image, paper, fibre[..., None] * np.array((1.0, 0.985, 0.95)))
    lost, ink = int(rng.integers(0, 6)), 1 - 0.05 * rng.random()
    for index, (x, y, size, words, colour) in enumerate(WORDS):
        if missing and index == lost:
            words = words.split()[0] if " " in words else ""
        paint(image, _text(x, y, size, words), colour, 0.94 * ink)
    paint(image, box(76, 338, 564, 344), BLUE, ink)
    for radius, colour in ((56, RED), (40, (240, 236, 226)), (26, RED)):
        paint(image, disc(500, 118, radius), colour, 0.95 * ink)
    paint(image, _bars(), (26, 26, 28), ink)
    paint(image, box(420, 380, 560, 400, 4), BLUE, ink)
    paint(image, lines([[(420, 430), (450, 500), (480, 440), (510, 510), (556, 420)]], 6), RED, ink)
    return Scene(image, (box(60, 56, 580, 584) > 0.9).astype(np.uint8))


@cache
def _text(x: float, y: float, size: int, words: str) -> np.ndarray:
    page = Image.new("L", (FINE, FINE))
    ImageDraw.Draw(page).text((x, y), words, fill=255, font=ImageFont.load_default(size))
    return np.asarray(page, np.float32) / 255


@cache
def _bars() -> np.ndarray:
    """The same code on every label."""
    widths = np.random.default_rng(7).integers(1, 5, 60) * 2.6
    found, left = np.zeros((FINE, FINE), np.float32), 80.0
    for index, width in enumerate(widths):
        if index % 2 == 0 and left + width < 390:
            found = np.maximum(found, box(left, 376, left + width, 526))
        left += float(width)
    return found


TRACES = (
    [(90, 150), (190, 150), (230, 190), (230, 250)], [(90, 190), (160, 190), (200, 230), (200, 300), (230, 330)],
    [(410, 260), (480, 260), (520, 220), (520, 130)], [(410, 300), (560, 300)], [(410, 340), (470, 340), (520, 390), (520, 450)],
    [(230, 370), (150, 370), (110, 410), (110, 520)], [(230, 410), (180, 410), (160, 430), (160, 540)],
    [(300, 430), (300, 480), (340, 520), (340, 560)], [(360, 430), (360, 470), (420, 530), (540, 530)], [(300, 230), (300, 110)],
    [(340, 230), (340, 160), (390, 110), (460, 110)],
)  # fmt: skip
VIAS = ((90, 150), (90, 190), (560, 300), (340, 560), (540, 530), (300, 110), (110, 520), (160, 540), (460, 110))
CHIP_PARTS = ((150, 290, "capacitor"), (520, 175, "resistor"), (520, 420, "capacitor"), (415, 530, "resistor"), (110, 460, "resistor"),
              (215, 110, "resistor"))  # fmt: skip


def board(rng: Random, missing: bool) -> Scene:
    """A green circuit board: a chip with its pins, six small parts, traces, pads and vias. Missing: a small part."""
    image = ground((30, 32, 36))
    paper = box(36, 36, 604, 604, 16)
    paint(image, paper, (22, 92, 58))
    shade(image, paper * (0.03 * field(rng, 40) + 0.025 * field(rng, 6)))
    paint(image, lines(TRACES, 12), (44, 128, 84))
    shade(image, -0.25 * np.clip(blurred(lines(TRACES, 14), 1.5) - lines(TRACES, 12), 0, 1))
    for x, y in (*VIAS, *((x, y) for x in (70, 570) for y in (70, 570))):
        big = x in (70, 570) and y in (70, 570)
        paint(image, disc(x, y, 22 if big else 13), (206, 172, 96))
        paint(image, disc(x, y, 13 if big else 6), (20, 22, 24))
    _chip(image, rng)
    lost = int(rng.integers(0, len(CHIP_PARTS)))
    for index, (x, y, kind) in enumerate(CHIP_PARTS):
        _small(image, rng, x, y, kind, gone=missing and index == lost)
    paint(image, _text(250, 560, 22, "SL-20 REV B"), (226, 230, 226), 0.9)
    paint(image, _text(400, 60, 20, "C1 R4"), (226, 230, 226), 0.9)
    return Scene(image, (box(48, 48, 592, 592) > 0.9).astype(np.uint8))


def _chip(image: np.ndarray, rng: Random) -> None:
    for k in range(6):
        y = 250 + k * 34
        for x0, x1 in ((214, 256), (384, 426)):
            paint(image, box(x0, y - 8, x1, y + 8, 2), (196, 198, 196))
            shade(image, 0.12 * box(x0, y - 8, x1, y - 2))
    x, y = rng.uniform(-2, 2, 2)
    body = box(248 + x, 226 + y, 392 + x, 444 + y, 5)
    shade(image, -0.45 * np.clip(blurred(np.roll(body, (5, 5), (0, 1)), 4) - body, 0, 1))
    paint(image, body, (42, 43, 46))
    shade(image, body * 0.06 * field(rng, 8))
    paint(image, disc(270 + x, 250 + y, 8), (24, 24, 26))
    paint(image, _text(280 + x, 300 + y, 28, "ST7024"), (186, 188, 190), 0.8)
    paint(image, _text(280 + x, 336 + y, 24, "2631 A"), (186, 188, 190), 0.8)


def _small(image: np.ndarray, rng: Random, x: float, y: float, kind: str, gone: bool) -> None:
    for sign in (-1, 1):
        paint(image, box(x + sign * 28 - 14, y - 20, x + sign * 28 + 14, y + 20, 3), (190, 186, 170))
    dx, dy = rng.uniform(-2, 2, 2)
    if gone:
        return
    colour: Colour = (176, 138, 92) if kind == "capacitor" else (34, 34, 38)
    body = box(x - 34 + dx, y - 17 + dy, x + 34 + dx, y + 17 + dy, 3)
    shade(image, -0.4 * np.clip(blurred(np.roll(body, (4, 4), (0, 1)), 3) - body, 0, 1))
    paint(image, body, (204, 204, 200))
    paint(image, box(x - 22 + dx, y - 17 + dy, x + 22 + dx, y + 17 + dy), colour)
    if kind == "resistor":
        paint(image, _text(x - 18 + dx, y - 11 + dy, 18, "472"), (216, 216, 214), 0.85)

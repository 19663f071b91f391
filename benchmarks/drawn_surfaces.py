"""Drawn products, first half: a woven textile, a brushed metal plate with holes, a bottle's neck seen from above."""

from __future__ import annotations

import numpy as np
from drawn_canvas import FINE, Random, Scene, blurred, box, disc, field, grid, ground, paint, shade

THREAD = 20.0  # pixels of the fine canvas


def textile(rng: Random, missing: bool) -> Scene:
    """Plain weave, blue over cream: every thread a little different, none quite straight. Missing: a stretch of one thread."""
    x, y = grid()
    phase = rng.uniform(0, THREAD, 2)
    u = (x + phase[0] + 2.0 * field(rng, 160)) / THREAD
    v = (y + phase[1] + 2.0 * field(rng, 160)) / THREAD
    column, row = np.floor(u).astype(int), np.floor(v).astype(int)
    across, along = u - column - 0.5, v - row - 0.5
    tones = rng.normal(0, 0.05, (2, 64))
    warp_tone, weft_tone = 1 + tones[0][column % 64], 1 + tones[1][row % 64]
    over = (column + row) % 2 == 0
    warp = np.clip(np.cos(np.pi * across * 0.95), 0, 1) * np.where(over, 0.75 + 0.25 * np.cos(np.pi * along), 0.35)
    weft = np.clip(np.cos(np.pi * along * 0.95), 0, 1) * np.where(over, 0.35, 0.75 + 0.25 * np.cos(np.pi * across))
    lost, begin, length = int(rng.integers(9, 23)), rng.uniform(0.15, 0.45) * FINE, rng.uniform(0.3, 0.45) * FINE
    if missing:
        warp = np.where((column == lost) & (y > begin) & (y < begin + length), 0, warp)
    twist = 0.06 * np.sin(2 * np.pi * (u + v) * 2.5) + 0.05 * rng.standard_normal((FINE, FINE))
    top = warp >= weft
    colour = np.where(top[..., None], (86, 116, 168), (214, 204, 182)).astype(np.float32)
    level = np.where(top, warp * warp_tone, weft * weft_tone) * (1 + twist)
    image = colour * np.clip(0.28 + 0.78 * level, 0, 1.25)[..., None]
    return Scene(image.astype(np.float32), np.ones((FINE, FINE), np.uint8))


HOLES = ((130, 130, 36), (510, 130, 36), (130, 510, 36), (510, 510, 36), (320, 320, 84), (320, 130, 22), (320, 510, 22))


def plate(rng: Random, missing: bool) -> Scene:
    """Brushed steel with seven holes on a dark table. Missing: one of the outer holes."""
    image = ground((38, 40, 44))
    shade(image, 0.05 * field(rng, 30))
    body = box(34, 34, 606, 606, 34)
    shade(image, -0.6 * np.clip(blurred(np.roll(body, (8, 8), (0, 1)), 9) - body, 0, 1))
    brush = rng.standard_normal((FINE, 40)).astype(np.float32)
    stretched = np.stack([np.interp(np.arange(FINE), np.sort(rng.uniform(-40, FINE + 40, 40)), line) for line in brush])
    steel = 158 + 7 * stretched + 4 * rng.standard_normal((FINE, FINE)) + 6 * field(rng, 200) + 14 * np.cos(grid()[1] / FINE * 2 * np.pi)
    paint(image, body, steel[..., None] * np.array((0.98, 1.0, 1.03)))
    rim = body - box(40, 40, 600, 600, 30)
    shade(image, 0.22 * rim)
    lost = int(rng.choice([0, 1, 2, 3]))
    for index, (x, y, radius) in enumerate(HOLES):
        if missing and index == lost:
            continue
        bevel = disc(x, y, radius + 7) - disc(x, y, radius)
        columns, rows = grid()
        facing = ((columns - x) + (rows - y)) / (radius * 1.6)
        shade(image, 0.28 * bevel * np.clip(facing, -1, 1))
        paint(image, disc(x, y, radius), (24, 25, 28))
        inner = disc(x, y, radius) - disc(x - 3, y - 3, radius)
        paint(image, np.clip(inner, 0, 1), (96, 98, 102), 0.7)
    solid = body - sum(disc(x, y, radius + 4) for x, y, radius in HOLES)
    return Scene(image, (solid > 0.9).astype(np.uint8))


def bottle(rng: Random, missing: bool) -> Scene:
    """A bottle's neck from above: lip, mouth, thread and shoulder of green glass. Missing: a piece broken out of the lip."""
    x, y = grid()
    centre = FINE / 2
    distance, angle = np.hypot(x - centre, y - centre), np.arctan2(y - centre, x - centre)
    image = ground((226, 226, 222))
    shade(image, 0.015 * field(rng, 90))
    paint(image, disc(centre, centre, 282), (30, 62, 40))
    glass = 0.5 + 0.5 * np.cos((distance - 200) / 82 * np.pi)
    shade(image, (distance < 282) * (0.55 * glass * (distance > 150) + 0.06 * field(rng, 50)))
    start = rng.uniform(0, 2 * np.pi)
    for turn in (0, 1):  # the thread, a spiral seen from above
        radius = 236 + 14 * turn + 14 * ((angle + start) % (2 * np.pi)) / (2 * np.pi)
        paint(image, np.clip(3.5 - np.abs(distance - radius), 0, 1), (112, 168, 122), 0.6)
    lip = np.clip(np.minimum(distance - 132, 204 - distance) + 0.5, 0, 1)
    paint(image, lip, (74, 124, 84))
    gloss = np.exp(-(((distance - 168) / 13) ** 2))
    lamp = np.exp(2.2 * (np.cos(angle + 2.3 + rng.normal(0, 0.06)) - 1)) + 0.6 * np.exp(4 * (np.cos(angle - 0.8 + rng.normal(0, 0.06)) - 1))
    paint(image, lip * np.clip(gloss * (0.3 + lamp), 0, 1), (222, 240, 226), 0.85)
    shade(image, lip * 0.04 * field(rng, 40))
    paint(image, disc(centre, centre, 132), (13, 22, 17))
    paint(image, np.clip(3 - np.abs(distance - 133), 0, 1), (128, 176, 136), 0.7)
    where, wide, ragged = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.3), field(rng, 24)
    if missing:
        off = np.abs((angle - where + np.pi) % (2 * np.pi) - np.pi)
        depth = 196 - (62 - 40 * (off / wide) ** 2) + 5 * ragged
        chip = np.clip(np.minimum(distance - depth, 206 - distance) / 2 + 0.5, 0, 1) * (off < wide)
        paint(image, blurred(chip, 1.5), (24, 44, 30))
        paint(image, np.clip(chip - np.roll(chip, 5, 0), 0, 1), (168, 206, 176), 0.7)
    return Scene(image, ((distance > 138) & (distance < 274)).astype(np.uint8))

"""The best and the worst cases as pictures: what was there, what was found, the expert's map, and the server's sentence."""

from __future__ import annotations

import cv2
import numpy as np
from answers import Answer, truth_of
from PIL import Image, ImageDraw, ImageFont
from sheet import GAP, LINE, wrapped
from sightline import Client
from sightline.draw import ANOMALY, INK, NORMAL, PAPER, heated, marked
from sightline.pictures import to_rgb
from sightline.report import Report

SIDE = 240  # of each of the three panels
HEAD, LINES = 26, 3
COLUMNS = 2
TRUTH = (86, 180, 233)


def extremes(answers: list[Answer], count: int) -> tuple[list[Answer], list[Answer]]:
    """The best and the worst: highest and lowest score of those with a defect, and the other way round of good ones.

    By SCORE, or by the expert's score where only that is known. `count` of each, half of them good pictures.
    """
    known = [answer for answer in answers if not answer.error]
    best, worst = [], []
    for defective in (True, False):
        ranked = sorted((a for a in known if a.picture.defective == defective), key=judged, reverse=defective)
        half = min(max(count // 2, 1), max(len(ranked) // 2, 1))
        best += ranked[:half]
        worst += ranked[::-1][:half]
    return best, worst


def judged(answer: Answer) -> float:
    """What the answer is ranked by."""
    value = answer.score if answer.score is not None else answer.expert
    return 0.0 if value is None else value


def sheet(client: Client, chosen: list[Answer], product: str | None) -> Image.Image:
    """The cases, asked once more with their whole sentence."""
    height, width = HEAD + SIDE + LINE * LINES + GAP, 3 * (SIDE + 4) + GAP
    rows = -(-len(chosen) // COLUMNS)
    page = Image.new("RGB", (GAP + COLUMNS * width, GAP + rows * height), PAPER)
    for index, answer in enumerate(chosen):
        report = client.inspect(answer.picture.path, product=product, timeout=300)
        _draw(page, answer, report, GAP + index % COLUMNS * width, GAP + index // COLUMNS * height)
    return page


def _draw(page: Image.Image, answer: Answer, report: Report, left: int, top: int) -> None:
    pen, large, small = ImageDraw.Draw(page), ImageFont.load_default(15), ImageFont.load_default(13)
    picture, image = answer.picture, to_rgb(answer.picture.path)
    width = 3 * (SIDE + 4) - 4
    pen.rectangle((left, top, left + width, top + HEAD), fill=ANOMALY if report.anomaly else NORMAL)
    expert = f" · expert {report.experts[0].score:.2f}" if report.experts else ""
    pen.text((left + 6, top + HEAD / 2), f"{report.verdict.upper()} {report.score_text}{expert}", fill=PAPER, font=large, anchor="lm")
    pen.text((left + width - 6, top + HEAD / 2), f"truth: {picture.kind} · {picture.name}", fill=PAPER, font=small, anchor="rm")
    scale = SIDE / max(image.size)
    panels = [_truth(image, answer, scale), marked(image, report, scale)]
    if report.heatmap is not None and report.experts:
        panels.append(heated(image, report.heatmap, scale))
    for index, panel in enumerate(panels):
        page.paste(panel, (left + index * (SIDE + 4), top + HEAD))
    for number, line in enumerate(wrapped(report.text, small, width)[:LINES]):
        pen.text((left, top + HEAD + SIDE + 2 + LINE * number), line, fill=INK, font=small)


def _truth(image: Image.Image, answer: Answer, scale: float) -> Image.Image:
    """The picture with its ground truth outlined, where there is one."""
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    drawn = np.array(image.resize(size, Image.Resampling.LANCZOS))
    truth = truth_of(answer.picture, (image.height, image.width))
    if truth is not None and truth.any():
        mask = (cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
        ring = cv2.dilate(mask, np.ones((5, 5), np.uint8)) - cv2.dilate(mask, np.ones((3, 3), np.uint8))
        drawn[ring > 0] = TRUTH
    return Image.fromarray(drawn)

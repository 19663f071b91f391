"""What operators say about verdicts: kept with picture, report and artefact hashes, and, for false alarms, learnt from.

The server's products hold features, not pictures, and enrolling replaces a product as a whole. So the pictures of normal parts are
kept here, and accepting a false alarm enrols the product again with one picture more.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .client import Client
from .errors import InvalidInput, UnknownProduct
from .pictures import Picture, encode
from .report import Report, parse

Mistake = Literal["false_alarm", "missed"]
KEEP = "enrol it with `sightline enroll --feedback` or `Feedback.enroll`"
CREATED = "created.json"
WRONG_ABOUT = {"false_alarm": "anomaly", "missed": "normal"}


@dataclass(frozen=True)
class Mark:
    """An answer that an operator calls wrong. `report` is the server's, with the artefacts' hashes; `accepted`: learnt from."""

    id: str
    mistake: Mistake
    product: str | None
    report: dict[str, Any]
    request_id: str
    when: str
    operator: str = ""
    note: str = ""
    accepted: bool = False

    @property
    def artefacts(self) -> dict[str, str]:
        return dict(self.report["artefacts"])


@dataclass(frozen=True)
class Effect:
    """The same picture before and after its product learnt it. `images`: pictures the product is now enrolled with."""

    before: Report
    after: Report
    images: int

    @property
    def cured(self) -> bool:
        return self.before.anomaly and not self.after.anomaly


class Feedback:
    """A folder: `marks` with a JSON file and a picture each, `products/NAME` with pictures of normal parts and the time of
    the enrolment that they are of."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._marks, self._products = Path(folder) / "marks", Path(folder) / "products"

    def mark(
        self, picture: Picture, report: Report, mistake: Mistake, *, product: str | None = None, operator: str = "", note: str = ""
    ) -> Mark:
        """Keeps an answer that was wrong. InvalidInput where the answer cannot have been wrong in this way."""
        if report.verdict != WRONG_ABOUT.get(mistake):
            raise _wrong(f"mistake: {mistake!r} does not fit the verdict {report.verdict!r}")
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = Mark(name, mistake, product, report.raw, report.request_id, now, operator, note)
        _write(self._marks / f"{name}.bin", encode(picture))
        self._save(made)
        return made

    def marks(self) -> list[Mark]:
        """All of them, oldest first."""
        return [Mark(**json.loads(path.read_text("utf-8"))) for path in sorted(self._marks.glob("*.json"))]

    def find(self, name: str) -> Mark:
        """The one mark whose id ends so."""
        found = [mark for mark in self.marks() if name and mark.id.endswith(name)]
        if len(found) != 1:
            raise _wrong(f"mark {name!r}: {len(found)} of the {len(self.marks())} kept marks end so, expected one")
        return found[0]

    def picture(self, mark: Mark) -> bytes:
        return (self._marks / f"{mark.id}.bin").read_bytes()

    def report(self, mark: Mark) -> Report:
        return parse(json.dumps(mark.report))

    def enroll(self, client: Client, name: str, images: Sequence[Picture], **recipe: Any) -> dict[str, Any]:
        """As `Client.enroll`; the pictures are kept, so that the product can learn later."""
        pictures = [encode(image, "IMAGES") for image in images]
        answer = client.enroll(name, pictures, **recipe)
        folder = self._products / name  # the server has checked the name by now
        for number, picture in enumerate(pictures):
            _write(folder / f"{number:04d}.bin", picture)
        for path in sorted(folder.glob("*.bin"))[len(pictures) :]:
            path.unlink()
        _write(folder / CREATED, json.dumps(_created(answer)).encode())
        return answer

    def accept(self, client: Client, mark: Mark) -> Effect:
        """Adds a false alarm's picture to its product as normal, and inspects it again. The mark is noted as accepted."""
        if mark.mistake != "false_alarm" or mark.product is None:
            raise _wrong("only a false alarm about a product can be learnt; a missed defect is no normal part")
        kept = [path.read_bytes() for path in sorted((self._products / mark.product).glob("*.bin"))]
        if not kept:
            raise UnknownProduct(f"no pictures of product {mark.product!r} are kept here; {KEEP}", "NOT_FOUND")
        picture = self.picture(mark)
        answer = client.describe(mark.product)
        if _created(answer) != self._enrolled(mark.product):
            raise _wrong(
                f"product {mark.product!r} is not the one whose pictures are kept here: it was enrolled again elsewhere; to learn, {KEEP}"
            )
        before, recipe = client.inspect(picture, product=mark.product), answer["product"]
        again = {key: recipe.get(key) or None for key in ("description", "prompt", "box")}
        images = kept if picture in kept else [*kept, picture]
        self.enroll(client, mark.product, images, **again)
        self._save(replace(mark, accepted=True))
        return Effect(before, client.inspect(picture, product=mark.product), len(images))

    def _enrolled(self, name: str) -> str | None:
        """When the product was enrolled with the pictures that are kept."""
        path = self._products / name / CREATED
        return str(json.loads(path.read_text("utf-8"))) if path.exists() else None

    def _save(self, mark: Mark) -> None:
        _write(self._marks / f"{mark.id}.json", json.dumps(asdict(mark), ensure_ascii=False).encode())


def _created(answer: dict[str, Any]) -> str | None:
    """When the server enrolled the product that its answer describes."""
    created = answer.get("product", {}).get("created")
    return None if created is None else str(created)


def _write(path: Path, content: bytes) -> None:
    """All or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_bytes(content)
    os.replace(draft, path)


def _wrong(text: str) -> InvalidInput:
    return InvalidInput(text, "INVALID_ARGUMENT")

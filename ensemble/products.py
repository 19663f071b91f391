"""Enrol, list, describe and remove products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from . import validate
from .contract import MAX_ENROLMENT
from .errors import invalid
from .expert import normal_bank
from .features import Call
from .picture import clip_box, open_picture, size_of
from .steps import as_text
from .store import Recipe, Store, bank_name

ACTIONS = ("enroll", "list", "describe", "remove")


@dataclass(frozen=True)
class Products:
    """`side` is SAM's input side, `dims` the vision encoder's, `artefact` its hash."""

    store: Store
    side: int
    dims: Mapping[str, Any]
    artefact: str

    def answer(self, inputs: Mapping[str, np.ndarray], call: Call, augment: str = "none") -> dict[str, Any]:
        """The REPORT of one request: {"action", "products": [...]} for `list`, else {"action", "product": {...}}."""
        action = as_text(inputs.get("ACTION"), "ACTION")
        if action not in ACTIONS:
            raise invalid("ACTION", f"unknown, expected one of {', '.join(ACTIONS)}")
        if action == "list":
            return {"action": action, "products": [self._described(self.store.recipe(name)) for name in self.store.names()]}
        if "NAME" not in inputs:
            raise invalid("NAME", f"missing, expected the product to {action}")
        name = validate.product_name(inputs["NAME"], "NAME")
        if action == "enroll":
            recipe = self._enroll(name, inputs, call, augment)
        else:
            recipe = self.store.recipe(name, "NAME") if action == "describe" else self.store.remove(name)
        return {"action": action, "product": self._described(recipe)}

    def _described(self, recipe: Recipe) -> dict[str, Any]:
        """A recipe as shown to clients; `usable` is false where other artefacts made its bank."""
        shown = {key: value for key, value in asdict(recipe).items() if key not in ("bank", "features")}
        return shown | {"usable": recipe.features == self.artefact}

    def _enroll(self, name: str, inputs: Mapping[str, np.ndarray], call: Call, augment: str) -> Recipe:
        contents = inputs["IMAGES"].reshape(-1).tolist() if "IMAGES" in inputs else []
        if not 1 <= len(contents) <= MAX_ENROLMENT:
            raise invalid("IMAGES", f"{len(contents)} pictures, expected 1 to {MAX_ENROLMENT} of normal parts")
        description = validate.prompt(inputs.get("DESCRIPTION"), "DESCRIPTION") or ""
        prompt = validate.prompt(inputs.get("PROMPT"), "PROMPT") or ""
        box = inputs.get("BOX")
        for index, content in enumerate(contents):  # every header first: a bad last picture must not cost minutes
            open_picture(content, f"IMAGES[{index}]")
        if box is not None:
            clip_box(box, *size_of(contents[0], "IMAGES[0]"), "BOX")
        bank = normal_bank(contents, "IMAGES", box, self.side, self.dims, call, augment)
        recipe = Recipe(
            name=name,
            description=description,
            prompt=prompt,
            box=None if box is None else tuple(float(v) for v in box),
            images=bank.images,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            bank=bank_name(bank),
            features=self.artefact,
            calibration=asdict(bank.calibration),
            augment=augment,
        )
        self.store.enroll(recipe, bank)
        return recipe

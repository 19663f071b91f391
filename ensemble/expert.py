"""The few-shot expert: how far the part is from normal ones, where, and what LISA is asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import bank as banks
from . import features, hint, validate
from .bank import Bank
from .contract import DEFAULT_PROMPT, HEATMAP_SIDE
from .cutout import seen_window
from .dialogue import Dialogue, compose
from .errors import not_found
from .features import Call
from .parameters import Options
from .picture import decode, window_of
from .steps import string
from .store import Recipe, Store

NAME = "few_shot"
_KEPT = 64  # reference banks in memory


@dataclass
class Expert:
    """`side` is SAM's input side, `dims` the vision encoder's, `artefact` its hash."""

    store: Store
    side: int
    dims: Mapping[str, Any]
    artefact: str
    _references: dict[str, Bank] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, inputs: Mapping[str, np.ndarray], call: Call, options: Options) -> dict[str, np.ndarray]:
        """question, dialogue, experts and HEATMAP of one request; see contract.MODELS["expert"] for the inputs."""
        height, width = (int(v) for v in inputs["original_size"])
        seen = seen_window(window_of(inputs["part_box"], height, width), self.dims)
        recipe = self.store.recipe(validate.product_name(inputs["PRODUCT"], "PRODUCT")) if "PRODUCT" in inputs else None
        normal = self._bank(inputs, recipe.name if recipe else None, call, options.augment)
        grid = words = None
        experts: list[dict[str, Any]] = []
        if normal is not None:
            raw, score = self._judge(inputs["patch_features"][0], normal)
            grid = normal.calibration(raw)
            words = hint.sentence(score, hint.places(raw, normal.calibration.center, seen, height, width))
            experts.append({"name": NAME, "score": score, "text": words, "references": normal.images})
        dialogue = self._dialogue(inputs, recipe, hint.part(inputs["part_box"], height, width), words, options.prompt_layout)
        heatmap = hint.heatmap(grid, seen, height, width, HEATMAP_SIDE)
        return {
            "question": string(dialogue.asked),
            "dialogue": string(dialogue.write()),
            "experts": string(json.dumps(experts)),
            "expert_map": heatmap,
            "HEATMAP": heatmap,
        }

    @staticmethod
    def _dialogue(inputs: Mapping[str, np.ndarray], recipe: Recipe | None, part: str | None, words: str | None, layout: str) -> Dialogue:
        prompt, told = validate.prompt(inputs.get("PROMPT"), "PROMPT"), validate.prompt(inputs.get("EXPERT"), "EXPERT")
        question = prompt or (recipe and recipe.prompt) or DEFAULT_PROMPT
        history = [(turn["role"], turn["content"]) for turn in validate.history(inputs.get("HISTORY"))]
        return compose(question, hint.experts(recipe and recipe.description, part, words, told), history, layout)

    def _judge(self, patches: np.ndarray, normal: Bank) -> tuple[np.ndarray, float]:
        """The map float [gh, gw], 0..2, and the calibrated score, 0..1."""
        raw = banks.raw_map(patches, normal.features, normal.channels).reshape(self.dims["stages"][0][1:])
        score = float(normal.calibration(banks.raw_score(raw.ravel())))
        score = min(score, 0.4999) if score < 0.5 else score
        return raw, round(score, 4)

    def _bank(self, inputs: Mapping[str, np.ndarray], product: str | None, call: Call, augment: str) -> Bank | None:
        """The product's bank, the references', or both joined."""
        enrolled = references = None
        if product is not None:
            if self.store.recipe(product).features != self.artefact:
                raise not_found("PRODUCT", f"'{product}' was enrolled with other artefacts, enrol it again")
            enrolled = self.store.bank(product)
        if "REFERENCE" in inputs:
            references = self._reference_bank(inputs["REFERENCE"].reshape(-1).tolist(), inputs["part_box"], call, augment)
        if enrolled is not None and references is not None:
            return enrolled.joined(references)
        return enrolled if enrolled is not None else references

    def _reference_bank(self, contents: Sequence[bytes], part_box: np.ndarray, call: Call, augment: str) -> Bank:
        digest = hashlib.sha256(part_box.tobytes() + augment.encode())
        for content in contents:
            digest.update(hashlib.sha256(content).digest())
        key = digest.hexdigest()
        with self._lock:
            if key in self._references:
                return self._references[key]
        box = part_box[0] if len(part_box) else None
        found = normal_bank(contents, "REFERENCE", box, self.side, self.dims, call, augment)
        with self._lock:
            while len(self._references) >= _KEPT:
                self._references.pop(next(iter(self._references)))
            self._references[key] = found
        return found


def normal_bank(
    contents: Sequence[bytes], name: str, box: np.ndarray | None, side: int, dims: Mapping[str, Any], call: Call, augment: str = "none"
) -> Bank:
    """A bank of encoded normal pictures. RequestError naming `name[i]` for a bad one.

    Args:
        box: float [4], the part in each of them, or None.
        augment: which copies of them are normal too, `parameters.AUGMENT`.
    """
    parts, changed, more = [], [], []
    for index, content in enumerate(contents):
        part = features.part_of(decode(content, f"{name}[{index}]"), box, side, call, f"{name}[{index}] and BOX")
        parts.append(features.patches_of(part, dims, call))
        more.append([features.patches_of(copy, dims, call) for copy in features.turned_copies(part, augment)])
        if len(contents) < banks.SMALL:
            changed.append([features.patches_of(copy, dims, call) for copy in features.changed_copies(part)])
    return banks.build(parts, banks.channels_of(dims), changed, more)

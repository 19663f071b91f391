"""Asking a server about the pictures of a data set: whole inspections, or the few-shot expert alone.

The expert alone: the picture's patch features are made once, by the same code and the same `vision_encoder` step as at enrolment, and the
`expert` step compares them with each product. No language model, no masks, so a sweep over many products takes a fraction of the time; the
expert's score and map are those of an inspection. Both are internal steps, which is why only a server of one's own is asked so.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from datasets import Group, Picture
from harness import REPOSITORY
from PIL import Image
from sightline import Client, NotInspected
from sightline_ensemble import features
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.contract import MAX_ENROLMENT
from sightline_ensemble.ledger import NO_TICKET
from sightline_ensemble.picture import decode
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

SECONDS = 300.0  # for one answer, on a machine busy with other things
SHORT = 2  # tokens: enough for the yes or no


@dataclass(frozen=True)
class Setting:
    """What is enrolled: `shots` normal pictures drawn with `seed`; 0 for none, None for all there are."""

    shots: int | None
    seed: int

    @property
    def name(self) -> str:
        return "all" if self.shots is None else str(self.shots)

    def chosen(self, group: Group) -> list[Any]:
        """The pictures to enrol. A larger number of shots contains the smaller one of the same seed."""
        order = np.random.default_rng(self.seed).permutation(len(group.train))
        wanted = MAX_ENROLMENT if self.shots is None else self.shots
        if self.shots is not None and self.shots > len(order):
            raise ValueError(f"{group.name}: {self.shots} normal pictures asked for, {len(order)} there are")
        return [group.train[i] for i in order[:wanted]]


@dataclass(frozen=True)
class Answer:
    """What the server said about a picture; where it was not inspected `error` says why and the rest is empty.

    `score`, `text` and `mask` are None where only the expert was asked; `expert` where none spoke; `heatmap` likewise.
    """

    picture: Picture
    milliseconds: float
    score: float | None = None
    text: str | None = None
    mask: np.ndarray | None = None
    expert: float | None = None
    heatmap: np.ndarray | None = None
    error: str = ""


class Asker(Protocol):
    def __call__(self, picture: Picture, product: str | None) -> Answer: ...


@dataclass(frozen=True)
class Inspections:
    """Asks `inspect`, as any client does."""

    client: Client
    max_tokens: int | None

    def __call__(self, picture: Picture, product: str | None) -> Answer:
        begin = time.perf_counter()
        try:
            report = self.client.inspect(picture.path, product=product, max_tokens=self.max_tokens, timeout=SECONDS)
        except NotInspected as error:
            return Answer(picture, _since(begin), error=str(error))
        spoke = report.experts[0].score if report.experts else None
        heatmap = report.heatmap if report.experts else None
        return Answer(picture, _since(begin), report.score, report.text, report.mask, spoke, heatmap)


class ExpertAlone:
    """Asks the steps `vision_encoder` and `expert`; a picture's features are kept."""

    def __init__(self, server: InferenceServerClient, profile: str) -> None:
        self._server = server
        self._dims = load_manifest(REPOSITORY / "vision_encoder", profile).dims
        self._kept: dict[Picture, tuple[np.ndarray, tuple[int, int]]] = {}

    def __call__(self, picture: Picture, product: str | None) -> Answer:
        begin = time.perf_counter()
        try:
            patches, size = self._features(picture)
            inputs = {
                "patch_features": patches[None], "original_size": np.array(size, np.int32), "part_box": np.zeros((0, 4), np.float32),
                "ticket": np.array(NO_TICKET, np.int64), "PRODUCT": np.array([str(product).encode()], object),
            }  # fmt: skip
            found = self._call("expert", inputs, ["experts", "HEATMAP"])
        except InferenceServerException as error:
            return Answer(picture, _since(begin), error=str(error))
        said = json.loads(found["experts"][0])
        return Answer(picture, _since(begin), expert=float(said[0]["score"]), heatmap=found["HEATMAP"])

    def _features(self, picture: Picture) -> tuple[np.ndarray, tuple[int, int]]:
        if picture not in self._kept:
            image = decode(picture.path.read_bytes(), "IMAGE")
            part = features.part_of(image, None, 0, self._call, "IMAGE")
            self._kept[picture] = features.patches_of(part, self._dims, self._call), (image.height, image.width)
        return self._kept[picture]

    def _call(self, model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        tensors = []
        for name, value in inputs.items():
            tensor = InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(value))
            tensors.append(tensor)
        answer = self._server.infer(model, tensors, outputs=[InferRequestedOutput(name) for name in outputs], client_timeout=SECONDS)
        return {name: answer.as_numpy(name) for name in outputs}


@contextmanager
def enrolled(client: Client, group: Group, setting: Setting) -> Iterator[str | None]:
    """The product of a setting, removed at the end; None where nothing is enrolled."""
    if setting.shots == 0:
        yield None
        return
    name = product_name(group.name, setting)
    client.enroll(name, setting.chosen(group), timeout=2 * SECONDS)
    try:
        yield name
    finally:
        client.remove(name)


def product_name(group: str, setting: Setting) -> str:
    """For instance evaluate-mono-k4-s0."""
    return f"evaluate-{re.sub(r'[^a-z0-9_-]', '-', group.lower())[:40]}-k{setting.name}-s{setting.seed}"


def truth_of(picture: Picture, shape: tuple[int, int]) -> np.ndarray | None:
    """The ground truth, uint8 [H, W], 0 where the picture is normal; None where there is none."""
    if not picture.defective:
        return np.zeros(shape, np.uint8)
    if picture.mask is None:
        return None
    with Image.open(picture.mask) as image:
        return np.asarray(image if image.mode in ("1", "L", "P", "I;16", "I") else image.convert("L")).astype(bool).astype(np.uint8)


def settings(shots: Sequence[int], unsupervised: bool, seeds: int) -> list[Setting]:
    """One for each number of shots and seed; without a draw there is one seed."""
    found = [Setting(count, seed) for count in shots for seed in range(seeds if count else 1)]
    return [*found, *([Setting(None, 0)] if unsupervised else [])]


def _since(begin: float) -> float:
    return 1e3 * (time.perf_counter() - begin)

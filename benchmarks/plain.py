"""The same inspection as a plain Python script: the pieces one after the other, one picture at a time, no Triton.

What somebody would write who has the graphs, the language model and the few-shot expert: decode, SAM's encoder and decoder, cut-out,
vision encoder, expert, LISA, mask, sentence. It runs the served artefacts in one process and gives the
ensemble's answers (`python benchmarks/comparison.py` checks that), so that only the way of serving differs. ONNX Runtime has the server's
settings: with its own, threads that spin between two graphs take the cores from LISA, and the script takes half as long again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import REPOSITORY
from sightline_ensemble import bank as banks
from sightline_ensemble import cutout, hint
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.contract import DEFAULT_PROMPT
from sightline_ensemble.dialogue import compose
from sightline_ensemble.expert import NAME, normal_bank
from sightline_ensemble.fusion import Fusion
from sightline_ensemble.intake import take_in
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.sequence import Event, Request
from sightline_ensemble.onnx import defects, session
from sightline_ensemble.picture import window_of
from sightline_ensemble.steps import string
from sightline_ensemble.store import Store
from sightline_ensemble.verdict import verdict

GRAPHS = ("sam_encoder", "sam_decoder", "vision_encoder", "lisa_decoder")
Arrays = dict[str, np.ndarray]


class Plain:
    """Inspects one picture after the other. `normal`: encoded pictures of normal parts, for the expert; `box`: float [4], the part."""

    def __init__(self, profile: str, normal: Sequence[bytes], box: np.ndarray) -> None:
        manifests = {name: load_manifest(REPOSITORY / name, profile) for name in (*GRAPHS, "lisa_engine")}
        self.runs = {name: self._graph(manifests[name].path("model.onnx")) for name in GRAPHS}
        self.runs["lisa_decoder"] = defects(self.runs["lisa_decoder"], manifests["lisa_decoder"].dims.get("slots"))
        self.engine = Engine.load(manifests["lisa_engine"].folder)
        self.fusion = Fusion.read(manifests["lisa_engine"].dims.get("fusion"))
        self.side, self.dims = manifests["sam_encoder"].dims["image_size"], manifests["vision_encoder"].dims
        self.box = box
        found = normal_bank(normal, "normal", box, self.side, self.dims, self._call)
        self.normal = replace(found, features=found.features.astype(np.float16).astype(np.float32))  # as a product's are stored

    def __call__(self, picture: bytes) -> dict[str, Any]:
        """verdict, score, locations, text and MASK uint8 [H, W]."""
        taken = take_in({"IMAGE": string(picture), "BOX": self.box}, frozenset({"part_pixels"}), self.side, Store(Path()))
        part, seen = self._part(taken)
        words, expert = self._expert(seen, taken)
        features, question = seen["image_features"][0], compose(DEFAULT_PROMPT, words, ()).turns[-1][1]
        look = self._ask(Request(features, question, look=True))
        found = self.runs["lisa_decoder"]({"image_embedding": taken["image_embedding"], "seg_embeddings": look.seg_embeddings[None]})
        numbers = {
            "seg_probability": np.array([look.seg_probability], np.float32), "seg_count": np.array([look.seg_count], np.int32),
            "defect_masks": found["low_res_masks"], "defect_ious": found["iou_predictions"], "picture_evidence": seen["picture_evidence"],
        }  # fmt: skip
        answer = verdict(taken | part | expert | numbers, frozenset({"MASK"}), self.fusion)
        finding = json.loads(answer["finding"][0])
        asked = Request(features, question, verdict=finding["verdict"] == "anomaly", places=tuple(finding["locations"]))
        return finding | {"text": self._ask(asked).text, "MASK": answer["MASK"]}

    def close(self) -> None:
        self.engine.close()

    # --- the pieces ---------------------------------------------------------------------------------------------------
    def _part(self, taken: Arrays) -> tuple[Arrays, Arrays]:
        """SAM's mask of the part, and what the vision encoder says of its cut-out; adds `image_embedding` to `taken`."""
        taken |= self.runs["sam_encoder"]({name: taken[name] for name in ("sam_pixels", "resized_size")})
        found = self.runs["sam_decoder"]({name: taken[name] for name in ("image_embedding", "point_coords", "point_labels")})
        height, width = (int(v) for v in taken["original_size"])
        resized, window = tuple(taken["resized_size"][0].tolist()), window_of(taken["part_box"], height, width)
        pixels = taken["part_pixels"]
        mask = cutout.part_mask(found["low_res_masks"][0, 0], resized, (height, width), window, pixels.shape[:2])
        shown = cutout.vision_pixels(cutout.without_background(pixels, mask), self.dims)
        part = {"part_masks": found["low_res_masks"], "part_ious": found["iou_predictions"]}
        return part, self.runs["vision_encoder"]({"vision_pixels": shown})

    def _expert(self, seen: Arrays, taken: Arrays) -> tuple[list[str], Arrays]:
        """What LISA is told before its question, and the expert as the verdict hears it."""
        height, width = (int(v) for v in taken["original_size"])
        raw = banks.raw_map(seen["patch_features"][0], self.normal.features, self.normal.channels)
        raw, score = raw.reshape(self.dims["stages"][0][1:]), float(self.normal.calibration(banks.raw_score(raw)))
        window = cutout.seen_window(window_of(taken["part_box"], height, width), self.dims)
        said = hint.sentence(score, hint.places(raw, self.normal.calibration.center, window, height, width))
        words = hint.experts(None, hint.part(taken["part_box"], height, width), said, None)
        heatmap = hint.heatmap(self.normal.calibration(raw), window, height, width, 256)
        return words, {"experts": string(json.dumps([{"name": NAME, "score": round(score, 4)}])), "expert_map": heatmap}

    def _ask(self, request: Request) -> Event:
        events: list[Event] = []
        done = threading.Event()

        def on_event(event: Event) -> None:
            events.append(event)
            if event.final:
                done.set()

        self.engine.submit(request, on_event)
        done.wait()
        if events[-1].status:
            raise RuntimeError(events[-1].status)
        return events[-1]

    def _call(self, model: str, inputs: Mapping[str, np.ndarray], _: list[str]) -> Arrays:
        return self.runs[model](dict(inputs))

    @staticmethod
    def _graph(path: Path) -> Any:
        loaded = session(path)
        names, known = [output.name for output in loaded.get_outputs()], {tensor.name for tensor in loaded.get_inputs()}
        return lambda inputs: dict(zip(names, loaded.run(names, {n: v for n, v in inputs.items() if n in known}), strict=True))

"""The engine steps on a CPU: one ONNX graph in ONNX Runtime, one picture (of decoders: one mask) a run.

Several at once gain no time there: 8 take 7 to 8 times as long as one, in each of the four tiny graphs (2 cores). But ONNX Runtime keeps
the memory of the largest run that ever was (SAM's encoder: 456 instead of 34 MB), and what is said of a picture would depend, in its last
digits, on the others beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from . import failures, steps
from .artefacts import load_manifest
from .contract import MODELS

THREADS = 2
NO_MASK = -20.0  # the logit of "nothing here"

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    # Spinning threads would steal the few cores from the other steps.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # batches vary; a plan kept for each shape costs memory
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def graph(model_dir: Path | str) -> tuple[onnxruntime.InferenceSession, Run]:
    """The artefact of a model, and a function from named inputs to named outputs."""
    steps.give_way()
    loaded = session(load_manifest(model_dir).path("model.onnx"))
    names, known = [output.name for output in loaded.get_outputs()], {tensor.name for tensor in loaded.get_inputs()}
    return loaded, lambda inputs: dict(zip(names, loaded.run(names, {n: v for n, v in inputs.items() if n in known}), strict=True))


def parts(run: Run) -> Run:
    """SAM's mask decoder, prompt by prompt: those without a point (every label -1) get zeros and are not run."""

    def run_prompted(inputs: Arrays) -> Arrays:
        embedding, coords, labels = inputs["image_embedding"], inputs["point_coords"], inputs["point_labels"]
        prompted, side = (labels >= 0).any(axis=2), 4 * embedding.shape[-1]  # [B, P]
        masks, ious = np.zeros((*prompted.shape, side, side), np.float32), np.zeros(prompted.shape, np.float32)
        for row, prompt in np.argwhere(prompted):
            one = np.s_[row : row + 1], np.s_[prompt : prompt + 1]
            found = run({"image_embedding": embedding[one[0]], "point_coords": coords[one], "point_labels": labels[one]})
            masks[one], ious[one] = found["low_res_masks"], found["iou_predictions"]
        return {"low_res_masks": masks, "iou_predictions": ious}

    return run_prompted


def defects(run: Run, slots: int | None) -> Run:
    """LISA's mask decoder, slot by slot: only slots in use (rows that are not all zero) are run; the others get `NO_MASK`.

    Args:
        slots: the graph's own number of slots where it is fixed; these are run together.
    """

    def run_used(inputs: Arrays) -> Arrays:
        embedding, vectors = inputs["image_embedding"], inputs["seg_embeddings"]
        (count, width), side, together = vectors.shape[:2], 4 * embedding.shape[-1], slots or 1
        masks, ious = np.full((count, width, side, side), NO_MASK, np.float32), np.zeros((count, width), np.float32)
        for row, used in enumerate(vectors.any(axis=2).sum(axis=1)):  # slots are filled from the first on
            one = np.s_[row : row + 1]
            for slot in range(0, used, together):
                some, filled = np.s_[slot : slot + together], np.s_[slot : min(slot + together, used)]
                found = run({"image_embedding": embedding[one], "seg_embeddings": np.ascontiguousarray(vectors[one, some])})
                masks[one, filled] = found["low_res_masks"][:, : used - slot]
                ious[one, filled] = found["iou_predictions"][:, : used - slot]
        return {"low_res_masks": masks, "iou_predictions": ious}

    return run_used


def pictures(run: Run) -> Run:
    """An encoder, picture by picture."""

    def run_each(inputs: Arrays) -> Arrays:
        count = len(next(iter(inputs.values())))
        found = [run({name: value[row : row + 1] for name, value in inputs.items()}) for row in range(count)]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    return run_each


def answer(requests: list[Any], run: Run, model: str) -> list[Any]:
    """The responses of one `execute()`. None harms another: each is run by itself."""
    failures.declare(steps.backend(), model)
    return [_respond(request, run, model) for request in requests]


def _respond(request: Any, run: Run, model: str) -> Any:
    start = time.monotonic_ns()
    try:
        outputs = run({tensor.name: steps.array(request, tensor.name) for tensor in MODELS[model].inputs})
    except Exception as error:
        return steps.failure(error, model, request.request_id())
    rows = len(next(iter(outputs.values())))
    named: Mapping[str, np.ndarray] = {**outputs, f"{model}_clock": np.repeat(steps.clock(start), rows, axis=0)}
    return steps.response(named, request.requested_output_names())

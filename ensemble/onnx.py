"""The engine steps on a CPU: one ONNX graph in ONNX Runtime, requests of equal shapes together."""

from __future__ import annotations

import time
from collections import defaultdict
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
    loaded = session(load_manifest(model_dir).path("model.onnx"))
    names, known = [output.name for output in loaded.get_outputs()], {tensor.name for tensor in loaded.get_inputs()}
    return loaded, lambda inputs: dict(zip(names, loaded.run(names, {n: v for n, v in inputs.items() if n in known}), strict=True))


def parts(run: Run) -> Run:
    """SAM's mask decoder: prompts without a point (every label -1) get zeros, and pictures without a prompt are not run."""

    def run_prompted(inputs: Arrays) -> Arrays:
        prompted, side = (inputs["point_labels"] >= 0).any(axis=2), 4 * inputs["image_embedding"].shape[-1]  # [B, P]
        masks, ious = np.zeros((*prompted.shape, side, side), np.float32), np.zeros(prompted.shape, np.float32)
        rows = np.flatnonzero(prompted.any(axis=1))
        if len(rows):
            found, used = run({name: value[rows] for name, value in inputs.items()}), prompted[rows]
            masks[prompted], ious[prompted] = found["low_res_masks"][used], found["iou_predictions"][used]
        return {"low_res_masks": masks, "iou_predictions": ious}

    return run_prompted


def defects(run: Run, slots: int | None) -> Run:
    """LISA's mask decoder: only slots in use (rows that are not all zero) are run; the others get `NO_MASK`.

    Args:
        slots: the graph's own number of slots where it is fixed.
    """

    def run_used(inputs: Arrays) -> Arrays:
        embedding, vectors = inputs["image_embedding"], inputs["seg_embeddings"]
        count, width, side = len(vectors), vectors.shape[1], 4 * embedding.shape[-1]
        used = vectors.any(axis=2).sum(axis=1)  # slots are filled from the first on
        masks, ious = np.full((count, width, side, side), NO_MASK, np.float32), np.zeros((count, width), np.float32)
        for number in sorted(set(used.tolist()) - {0}):
            rows, take = np.flatnonzero(used == number), slots or number
            found = run({"image_embedding": embedding[rows], "seg_embeddings": np.ascontiguousarray(vectors[rows, :take])})
            masks[rows, :number] = found["low_res_masks"][:, :number]
            ious[rows, :number] = found["iou_predictions"][:, :number]
        return {"low_res_masks": masks, "iou_predictions": ious}

    return run_used


def groups(batch: list[Arrays], largest: int) -> list[list[int]]:
    """Indices of requests whose inputs have equal shapes, at most `largest` rows in a group."""
    by_shape: dict[tuple, list[list[int]]] = defaultdict(list)
    rows: dict[tuple, int] = defaultdict(int)
    for index, inputs in enumerate(batch):
        key = tuple((name, value.shape[1:]) for name, value in sorted(inputs.items()))
        size = len(next(iter(inputs.values())))
        if not by_shape[key] or rows[key] + size > largest:
            by_shape[key].append([])
            rows[key] = 0
        by_shape[key][-1].append(index)
        rows[key] += size
    return [group for found in by_shape.values() for group in found]


def run_together(batch: list[Arrays], run: Run) -> list[Arrays]:
    """Each request's outputs, from one run of their concatenated inputs."""
    outputs = run({name: np.concatenate([inputs[name] for inputs in batch]) for name in batch[0]})
    ends = np.cumsum([len(next(iter(inputs.values()))) for inputs in batch])[:-1]
    split = {name: np.split(value, ends) for name, value in outputs.items()}
    return [{name: value[index] for name, value in split.items()} for index in range(len(batch))]


def answer(requests: list[Any], run: Run, model: str) -> list[Any]:
    """The responses of one `execute()`; where a joint run fails each request is run alone, so that none harms another."""
    failures.declare(steps.backend(), model)
    start, spec = time.monotonic_ns(), MODELS[model]
    batch = [{tensor.name: steps.array(request, tensor.name) for tensor in spec.inputs} for request in requests]
    responses: list[Any] = [None] * len(requests)
    for group in groups(batch, spec.max_batch_size):
        try:
            found: list[Arrays | Exception] = list(run_together([batch[i] for i in group], run))
        except Exception:
            found = [_alone(batch[i], run) for i in group]
        for index, outputs in zip(group, found, strict=True):
            responses[index] = _respond(requests[index], outputs, start, model)
    return responses


def _alone(inputs: Arrays, run: Run) -> Arrays | Exception:
    try:
        return run(inputs)
    except Exception as error:
        return error


def _respond(request: Any, outputs: Arrays | Exception, start_ns: int, model: str) -> Any:
    if isinstance(outputs, Exception):
        return steps.failure(outputs, model, request.request_id())
    rows = len(next(iter(outputs.values())))
    named: Mapping[str, np.ndarray] = {**outputs, f"{model}_clock": np.repeat(steps.clock(start_ns), rows, axis=0)}
    return steps.response(named, request.requested_output_names())

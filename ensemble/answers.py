"""The language model's answer through its decoupled engine, for those that wait for all of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from . import spans, steps
from .errors import RequestError, from_message
from .steps import Job

OUTPUTS = ("answer", "seg_embeddings", "seg_count", "seg_probability", "tokens")


def ask(inputs: Mapping[str, np.ndarray], job: Job, step: str) -> dict[str, np.ndarray]:
    """OUTPUTS of lisa_engine's last response. RequestError where it failed; `step` is named where it says nothing."""
    call = steps.inference_request("lisa_engine", inputs, [*OUTPUTS, "status"], **job.handed)
    with spans.span("lisa_engine", **job.named):
        parts = [part for part in steps.responses(call) if part.has_error() or part.output_tensors()]
        answers = [steps.outputs_of(part, "lisa_engine") for part in parts]
        if not answers:
            raise RequestError("INTERNAL", f"{step}: the engine gave no answer")
        outputs = answers[-1]
        if status := steps.as_text(outputs.pop("status"), "status"):
            raise from_message(status, step)
        return outputs

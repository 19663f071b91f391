"""A model named `inspect` that reports its picture's SHA-256: what the server has read, without the time of an inspection."""

from __future__ import annotations

from pathlib import Path

MODEL = """
import hashlib
import json

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(pb.get_input_tensor_by_name(request, "IMAGE").as_numpy()[0]) for request in requests]

    def _answer(self, picture):
        report = {
            "schema": "sightline/1", "verdict": "normal", "score": 0.1, "text": hashlib.sha256(picture).hexdigest(), "locations": [],
            "defects": [], "part": None, "experts": [], "size": [1, 1], "prompt": "", "tokens": 0, "profile": "echo", "artefacts": {},
            "timings_ms": {}, "time_to_mask_ms": 0.0,
        }
        return pb.InferenceResponse([
            pb.Tensor("REPORT", np.array([json.dumps(report).encode()], object)), pb.Tensor("HEATMAP", np.zeros((0, 0), np.uint8))
        ])
"""
CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] }, { name: "MAX_TOKENS" data_type: TYPE_INT32 dims: [ 1 ] optional: true } ]
output [ { name: "REPORT" data_type: TYPE_STRING dims: [ 1 ] }, { name: "HEATMAP" data_type: TYPE_UINT8 dims: [ -1, -1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""


def write(folder: Path) -> Path:
    """A repository of that model alone."""
    (folder / "inspect" / "1").mkdir(parents=True)
    (folder / "inspect" / "1" / "model.py").write_text(MODEL)
    (folder / "inspect" / "config.pbtxt").write_text(CONFIG)
    return folder

"""A model repository of a few lines, for tests of the launcher and the supervisor: it starts in a fraction of a second."""

from __future__ import annotations

from pathlib import Path

MODEL = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [pb.InferenceResponse([pb.Tensor("REPORT", np.array([b"{}"], object))]) for _ in requests]
"""
SWALLOWING = """
class TritonPythonModel:
    def initialize(self, args):
        self.kept = []

    def execute(self, requests):
        self.kept += [request.get_response_sender() for request in requests]
"""
BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError("no weights")
"""
CONFIG = """
backend: "python"
max_batch_size: 0
input [
  { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "MAX_TOKENS" data_type: TYPE_INT32 dims: [ 1 ] optional: true }
]
output [ { name: "REPORT" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""


def swallowing(folder: Path, name: str) -> None:
    """A decoupled model that takes every request in and answers none."""
    write(folder, SWALLOWING, (name,))
    (folder / name / "config.pbtxt").write_text(CONFIG + "model_transaction_policy { decoupled: true }\n")


def write(folder: Path, model: str = MODEL, names: tuple[str, ...] = ("inspect", "other")) -> Path:
    """A repository of models that answer every picture with an empty report."""
    for name in names:
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(model)
        (folder / name / "config.pbtxt").write_text(CONFIG)
    return folder

"""Verdict, score, masks and places, before the sentence."""

import time
from pathlib import Path

from sightline_ensemble import ledger, steps
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.contract import MODELS
from sightline_ensemble.fusion import Fusion
from sightline_ensemble.verdict import verdict

INPUTS = [tensor.name for tensor in MODELS["verdict"].inputs]


class TritonPythonModel:
    def initialize(self, args):
        repository = Path(args["model_repository"]).parent
        self.fusion = Fusion.read(load_manifest(repository / "lisa_engine").dims.get("fusion"))

    def execute(self, requests):
        return steps.answer_each(requests, self.answer, "verdict", ticket="ticket")

    def answer(self, request):
        start = time.monotonic_ns()
        inputs = {name: value for name in INPUTS if (value := steps.array(request, name)) is not None}
        ledger.check(ledger.as_ticket(inputs["ticket"]))
        outputs = verdict(inputs, frozenset(request.requested_output_names()), self.fusion)
        return outputs | {"verdict_clock": steps.clock(start)}

    def finalize(self):
        steps.finish()

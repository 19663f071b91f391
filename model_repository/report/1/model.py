"""The report; the end of a request, so its row of the ledger is given back here."""

import time
from pathlib import Path

from sightline_ensemble import audit, ledger, report, spans, steps
from sightline_ensemble.artefacts import load_manifest, repository_hashes
from sightline_ensemble.contract import MODELS

INPUTS = [tensor.name for tensor in MODELS["report"].inputs]


class TritonPythonModel:
    def initialize(self, args):
        repository = Path(args["model_repository"]).parent
        self.profile = load_manifest(repository / "sam_encoder").profile
        self.artefacts = repository_hashes(repository, self.profile)

    def execute(self, requests):
        return steps.answer_each(requests, self.answer, "report", ticket="release")

    def answer(self, request):
        start = time.monotonic_ns()
        inputs = {name: value for name in INPUTS if (value := steps.array(request, name)) is not None}
        ticket = ledger.as_ticket(inputs.get("release"))
        ledger.check(ticket)
        outputs = report.report(inputs, self.profile, self.artefacts)
        if "release" in inputs:  # the last report of a request, not a stream's first
            audit.note(request.request_id(), outputs["REPORT"][0])
        ledger.release(ticket)
        spans.make_up(request, "inspect", {**inputs, "report_clock": steps.clock(start)})
        return outputs

    def finalize(self):
        steps.finish()

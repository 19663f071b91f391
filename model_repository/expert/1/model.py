"""The few-shot expert; in a thread pool, for references have to be encoded first."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sightline_ensemble import ledger, steps
from sightline_ensemble.artefacts import artefact_hash, load_manifest
from sightline_ensemble.contract import MODELS
from sightline_ensemble.expert import Expert
from sightline_ensemble.store import Store

INPUTS = [tensor.name for tensor in MODELS["expert"].inputs]


class TritonPythonModel:
    def initialize(self, args):
        repository = Path(args["model_repository"]).parent
        vision = load_manifest(repository / "vision_encoder")
        side = load_manifest(repository / "sam_encoder").dims["image_size"]
        self.expert = Expert(Store.from_environment(), side, vision.dims, artefact_hash(vision))
        self.pool = ThreadPoolExecutor(4, thread_name_prefix="expert")

    def execute(self, requests):
        return steps.answer_later(self.pool, requests, INPUTS, self.answer, "expert")

    def answer(self, inputs, job):
        ledger.check(ledger.as_ticket(inputs.get("ticket")))
        outputs = self.expert.answer(inputs, partial(steps.call, **job.named), job.options)
        return outputs | {"expert_clock": steps.clock(job.start_ns)}

    def finalize(self):
        steps.finish(self.pool)

"""Products: enrol, list, describe, remove; enrolling runs in a thread, so that listing never waits for it."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sightline_ensemble import ledger, steps
from sightline_ensemble.artefacts import artefact_hash, load_manifest
from sightline_ensemble.contract import MODELS
from sightline_ensemble.products import Products
from sightline_ensemble.store import Store

INPUTS = [tensor.name for tensor in MODELS["products"].inputs]


class TritonPythonModel:
    def initialize(self, args):
        repository = Path(args["model_repository"]).parent
        vision = load_manifest(repository / "vision_encoder")
        side = load_manifest(repository / "sam_encoder").dims["image_size"]
        self.products = Products(Store.from_environment(), side, vision.dims, artefact_hash(vision))
        self.pool = ThreadPoolExecutor(2, thread_name_prefix="products")

    def execute(self, requests):
        return steps.answer_later(self.pool, requests, INPUTS, self.answer, "products")

    def answer(self, inputs, job):
        call = partial(steps.call, **job.named)
        if steps.as_bytes(inputs.get("ACTION")) != b"enroll":
            return self.report(inputs, call, job)
        with ledger.admitted() as touch:  # a server that stops waits for it, and begins no other

            def touching(*asked):
                touch()
                return call(*asked)

            return self.report(inputs, touching, job)

    def report(self, inputs, call, job):
        return {"REPORT": steps.string(json.dumps(self.products.answer(inputs, call, job.options.augment)))}

    def finalize(self):
        steps.finish(self.pool)

"""Admits a request or refuses it at once; decodes its picture in a thread pool."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from sightline_ensemble import failures, intake, ledger, steps
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.contract import MODELS
from sightline_ensemble.errors import cancelled
from sightline_ensemble.store import Store

INPUTS = [tensor.name for tensor in MODELS["decode"].inputs]


class TritonPythonModel:
    def initialize(self, args):
        repository = Path(args["model_repository"]).parent
        self.side = load_manifest(repository / "sam_encoder").dims["image_size"]
        self.store = Store.from_environment()
        self.pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 4), thread_name_prefix="decode")

    def execute(self, requests):
        failures.declare(steps.backend(), "decode")
        for request in requests:
            sender = request.get_response_sender()
            ticket = ledger.NO_TICKET
            try:
                if request.is_cancelled():
                    raise cancelled()
                job = steps.Job.of(request)
                ticket = ledger.admit(ledger.deadline_after(job.timeout_us))
                self.pool.submit(self.answer, sender, ticket, job, steps.arrays(request, INPUTS))
            except Exception as error:
                ledger.release(ticket)
                steps.send_last(sender, steps.failure(error, "decode", request.request_id()))
        return [None] * len(requests)

    def answer(self, sender, ticket, job, inputs):
        try:
            ledger.check(ticket)
            outputs = intake.take_in(inputs, job.wanted, self.side, self.store)
            outputs |= {"ticket": np.array(ticket, np.int64), "decode_clock": steps.clock(job.start_ns)}
            last = steps.response(outputs, job.wanted)
        except Exception as error:
            ledger.release(ticket)
            last = steps.failure(error, "decode", job.request_id)
        steps.send_last(sender, last)

    def finalize(self):
        steps.finish(self.pool)

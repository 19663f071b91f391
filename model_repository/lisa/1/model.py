"""LISA looks: `[SEG]`'s vector and the verdict's probability, or, where a checkpoint has no verdict, its whole answer.

Waits for the engine in a thread, so that requests meet in the engine's batch.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sightline_ensemble import answers, ledger, steps
from sightline_ensemble.contract import IN_FLIGHT_LIMIT, MODELS

INPUTS = [tensor.name for tensor in MODELS["lisa"].inputs]


class TritonPythonModel:
    def initialize(self, args):
        self.pool = ThreadPoolExecutor(IN_FLIGHT_LIMIT, thread_name_prefix="lisa")

    def execute(self, requests):
        return steps.answer_later(self.pool, requests, INPUTS, self.answer, "lisa")

    def answer(self, inputs, job):
        ledger.check(ledger.as_ticket(inputs["ticket"]))
        outputs = answers.ask({**inputs, "look": np.array([1], np.int32)}, job, "lisa")
        return outputs | {"lisa_clock": steps.clock(job.start_ns)}

    def finalize(self):
        steps.finish(self.pool)

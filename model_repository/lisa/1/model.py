"""The unary door to LISA's engine: drains its responses in a thread, so that requests meet in the engine's batch."""

from concurrent.futures import ThreadPoolExecutor

from sightline_ensemble import ledger, steps
from sightline_ensemble.contract import IN_FLIGHT_LIMIT, MODELS
from sightline_ensemble.errors import RequestError, from_message

INPUTS = [tensor.name for tensor in MODELS["lisa"].inputs]
OUTPUTS = [tensor.name for tensor in MODELS["lisa"].outputs]


class TritonPythonModel:
    def initialize(self, args):
        self.pool = ThreadPoolExecutor(IN_FLIGHT_LIMIT, thread_name_prefix="lisa")

    def execute(self, requests):
        return steps.answer_later(self.pool, requests, INPUTS, self.answer, "lisa")

    def answer(self, inputs, job):
        ledger.check(ledger.as_ticket(inputs["ticket"]))
        call = steps.inference_request("lisa_engine", inputs, [*OUTPUTS, "status"], **job.handed)
        parts = [part for part in steps.responses(call) if part.has_error() or part.output_tensors()]
        answers = [steps.outputs_of(part, "lisa_engine") for part in parts]
        if not answers:
            raise RequestError("INTERNAL", "lisa: the engine gave no answer")
        outputs = answers[-1]
        if status := steps.as_text(outputs.pop("status"), "status"):
            raise from_message(status, "lisa")
        return outputs | {"lisa_clock": steps.clock(job.start_ns)}

    def finalize(self):
        self.pool.shutdown()

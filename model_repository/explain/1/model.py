"""LISA explains what was found: the sentence, with the verdict's yes or no and the masks' places. One that is said already passes."""

from concurrent.futures import ThreadPoolExecutor

from sightline_ensemble import answers, ledger, steps
from sightline_ensemble.contract import IN_FLIGHT_LIMIT, MODELS
from sightline_ensemble.verdict import unexplained

INPUTS = [tensor.name for tensor in MODELS["explain"].inputs]


class TritonPythonModel:
    def initialize(self, args):
        self.pool = ThreadPoolExecutor(IN_FLIGHT_LIMIT, thread_name_prefix="explain")

    def execute(self, requests):
        return steps.answer_later(self.pool, requests, INPUTS, self.answer, "explain")

    def answer(self, inputs, job):
        ledger.check(ledger.as_ticket(inputs["ticket"]))
        said = {name: inputs.pop(name) for name in ("answer", "tokens")}
        if unexplained(inputs["finding"], said["answer"]):
            said = answers.ask(inputs, job, "explain")
        return {"answer": said["answer"], "tokens": said["tokens"], "explain_clock": steps.clock(job.start_ns)}

    def finalize(self):
        steps.finish(self.pool)

"""LISA's engine behind Triton: many requests at a time, a response per piece of text or one in all.

A failure is data (`status`), then the final flag alone: an error after a response would leave the reader hanging.
"""

import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from sightline_ensemble import ledger, steps
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.contract import MAX_TOKENS_LIMIT, MODELS
from sightline_ensemble.dialogue import Dialogue
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.metrics import SECONDS, Meter
from sightline_ensemble.lisa.sequence import Request

INPUTS = [tensor.name for tensor in MODELS["lisa_engine"].inputs]


class Reply:
    """Sends a request's events; the final flag goes out whatever happens, and nothing after it."""

    def __init__(self, sender, wanted):
        self.sender, self.wanted, self.start_ns = sender, wanted, time.monotonic_ns()

    def __call__(self, event):
        ended = True
        try:
            self.sender.send(steps.response(self.outputs(event), self.wanted))
            ended = event.final
        finally:
            if ended:
                self.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def outputs(self, event):
        return {
            "answer": steps.string(event.text),
            "seg_embeddings": event.seg_embeddings[None],
            "seg_count": np.array([event.seg_count], np.int32),
            "seg_probability": np.array([event.seg_probability], np.float32),
            "tokens": np.array([event.tokens], np.int32),
            "status": steps.string(event.status),
            "lisa_clock": steps.clock(self.start_ns),
        }


class Instruments:
    """Makes Triton's metric of each of ours, and keeps the families: a family that is dropped leaves the metrics port, with its metrics."""

    def __init__(self):
        self.families = []

    def __call__(self, metric):
        kind = getattr(pb_utils.MetricFamily, metric.kind)
        self.families.append(pb_utils.MetricFamily(name=metric.full_name, description=metric.help, kind=kind))
        buckets = {"buckets": list(SECONDS)} if metric.kind == "HISTOGRAM" else {}
        return self.families[-1].Metric(labels={}, **buckets)


class TritonPythonModel:
    def initialize(self, args):
        self.instruments = Instruments()
        folder = load_manifest(Path(args["model_repository"])).folder
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        if device == "cpu":
            steps.give_way()
        self.engine = Engine.load(folder, ledger.state, meter=Meter(self.instruments), on=device)
        pb_utils.Logger.log_info(self.engine.describe())

    def execute(self, requests):
        for request in requests:
            reply = Reply(request.get_response_sender(), frozenset(request.requested_output_names()))
            try:
                parsed = self.request(steps.arrays(request, INPUTS), steps.Job.of(request))
            except Exception as error:
                self.engine.refuse(error, reply)
            else:
                self.engine.submit(parsed, reply)

    def request(self, inputs, job):
        token, deadline = ledger.as_ticket(inputs["ticket"])
        dialogue = Dialogue.read(steps.as_text(inputs["dialogue"], "dialogue"))
        look = bool(inputs.get("look", [0])[0]) and self.engine.config.verdict is not None
        turns = dialogue.opening if look else dialogue.turns
        found = json.loads(steps.as_bytes(inputs["finding"])) if "finding" in inputs else {}
        return Request(
            features=inputs["image_features"][0],
            question=turns[-1][1],
            history=turns[:-1],
            max_tokens=min(int(inputs["MAX_TOKENS"][0]) if "MAX_TOKENS" in inputs else Request.max_tokens, MAX_TOKENS_LIMIT),
            ticket=(token, deadline or ledger.deadline_after(job.timeout_us)),
            sampling=job.sampling,
            stream=bool(inputs.get("stream", [0])[0]),
            look=look,
            verdict=found["verdict"] == "anomaly" if found else None,
            places=tuple(found.get("locations", ())),
        )

    def finalize(self):
        self.engine.close()
        self.instruments.families.clear()
        steps.finish()

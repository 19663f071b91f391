"""Streams an inspection: report and mask at the first [SEG], then text, then the complete report."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

from sightline_ensemble import failures, ledger, steps, stream
from sightline_ensemble.contract import IN_FLIGHT_LIMIT, REQUEST
from sightline_ensemble.errors import queue_full

INPUTS = [tensor.name for tensor in REQUEST]


class TritonPythonModel:
    def initialize(self, args):
        self.names = stream.Names.of("engine_clocks" in json.loads(args["model_config"])["parameters"])
        self.pool = ThreadPoolExecutor(IN_FLIGHT_LIMIT, thread_name_prefix="stream")
        self.door = ThreadPoolExecutor(8, thread_name_prefix="door")  # for those that get no place in the pool
        self.watcher = stream.Watcher()

    def execute(self, requests):
        failures.declare(steps.backend(), "inspect_stream")
        returned = threading.Event()
        try:
            for request in requests:
                self.take(request, returned)
        finally:
            returned.set()

    def take(self, request, returned):
        wanted = frozenset(request.requested_output_names())
        outlet = stream.Outlet(request.get_response_sender(), wanted, request.request_id(), returned)
        try:
            if left := stream.left_by(request):
                self.watcher.leave(left)
                self.door.submit(outlet.end)
                return
            if len(self.watcher) >= IN_FLIGHT_LIMIT:
                raise queue_full(IN_FLIGHT_LIMIT)
            job = steps.Job.of(request)
            inputs = steps.arrays(request, INPUTS)
            self.watcher.add(outlet)
            self.pool.submit(self.answer, inputs, outlet, job)
        except Exception as error:
            self.watcher.remove(outlet)
            # Not the error: its frames hold the request, and a request that outlives `execute` damages the server's memory.
            self.door.submit(outlet.end, steps.failure(error, "inspect_stream", outlet.request_id))

    def answer(self, inputs, outlet, job):
        try:
            stream.inspect(inputs, outlet, job, self.names)
        except Exception as error:
            ledger.release(outlet.ticket)
            outlet.fail(error)
        finally:
            self.watcher.remove(outlet)

    def finalize(self):
        steps.finish(self.pool, self.door)
        self.watcher.stop()

"""Streams an inspection: report and mask at the first [SEG], then text, then the complete report."""

import json
from concurrent.futures import ThreadPoolExecutor

from sightline_ensemble import failures, ledger, steps, stream
from sightline_ensemble.contract import IN_FLIGHT_LIMIT, REQUEST
from sightline_ensemble.errors import queue_full

INPUTS = [tensor.name for tensor in REQUEST]


class TritonPythonModel:
    def initialize(self, args):
        self.names = stream.Names.of("engine_clocks" in json.loads(args["model_config"])["parameters"])
        self.pool = ThreadPoolExecutor(IN_FLIGHT_LIMIT, thread_name_prefix="stream")
        self.door = ThreadPoolExecutor(2, thread_name_prefix="door")  # for those that get no place in the pool
        self.watcher = stream.Watcher()

    def execute(self, requests):
        failures.declare(steps.backend(), "inspect_stream")
        for request in requests:
            wanted = frozenset(request.requested_output_names())
            outlet = stream.Outlet(request.get_response_sender(), wanted, request.request_id())
            try:
                if left := stream.left_by(request):
                    self.watcher.leave(left)
                    self.door.submit(outlet.close)
                    continue
                if len(self.watcher) >= IN_FLIGHT_LIMIT:
                    raise queue_full(IN_FLIGHT_LIMIT)
                job = steps.Job.of(request)
                inputs = steps.arrays(request, INPUTS)
                self.watcher.add(outlet)
                self.pool.submit(self.answer, inputs, outlet, job)
            except Exception as error:
                self.watcher.remove(outlet)
                self.door.submit(outlet.fail, error)  # an error that ends a stream before execute() has returned kills the server

    def answer(self, inputs, outlet, job):
        try:
            stream.inspect(inputs, outlet, job, self.names)
        except Exception as error:
            ledger.release(outlet.ticket)
            outlet.fail(error)
        finally:
            self.watcher.remove(outlet)

    def finalize(self):
        self.pool.shutdown()
        self.door.shutdown()
        self.watcher.stop()

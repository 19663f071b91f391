"""SAM's mask decoder on ONNX Runtime (production: a TensorRT plan); requests without a prompt are not run."""

from sightline_ensemble import onnx, steps


class TritonPythonModel:
    def initialize(self, args):
        self.session, run = onnx.graph(args["model_repository"])
        self.run = onnx.parts(run)

    def execute(self, requests):
        return onnx.answer(requests, self.run, "sam_decoder")

    def finalize(self):
        steps.finish()

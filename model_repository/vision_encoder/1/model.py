"""The vision encoder on ONNX Runtime (production: a TensorRT plan)."""

from sightline_ensemble import onnx, steps


class TritonPythonModel:
    def initialize(self, args):
        self.session, run = onnx.graph(args["model_repository"])
        self.run = onnx.pictures(run)

    def execute(self, requests):
        return onnx.answer(requests, self.run, "vision_encoder")

    def finalize(self):
        steps.finish()

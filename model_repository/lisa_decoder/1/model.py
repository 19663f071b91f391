"""LISA's mask decoder on ONNX Runtime (production: a TensorRT plan); only slots in use are run."""

from sightline_ensemble import onnx, steps


class TritonPythonModel:
    def initialize(self, args):
        self.session, run = onnx.graph(args["model_repository"])
        slots = {tensor.name: tensor.shape for tensor in self.session.get_inputs()}["seg_embeddings"][1]
        self.run = onnx.defects(run, slots if isinstance(slots, int) else None)

    def execute(self, requests):
        return onnx.answer(requests, self.run, "lisa_decoder")

    def finalize(self):
        steps.finish()

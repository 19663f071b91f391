"""A repository with stand-in artefacts: the real steps over tiny untrained graphs, so that the server can be tested without weights.

The stand-in language model says "Yes, ..." with one `[SEG]` where the picture's mean token is bright, else "No, ...".
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sightline_ensemble.artefacts import write_manifest

PROFILE, SIDE, GRID, VISION, CHANNELS = "standin", 64, 4, 32, (3, 3)
F, U8, I32 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT32
ENGINES = ("sam_encoder", "sam_decoder", "vision_encoder", "lisa_decoder")


def _graph(path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> None:
    graph = helper.make_graph(
        nodes,
        "standin",
        [helper.make_tensor_value_info(*t) for t in inputs],
        [helper.make_tensor_value_info(*t) for t in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _sam_encoder(path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["sam_pixels"], ["x"], to=F),
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[SIDE // GRID] * 2, strides=[SIDE // GRID] * 2),
        helper.make_node("Conv", ["p", "w"], ["image_embedding"]),
    ]
    weight = np.full((256, 3, 1, 1), 1 / 765, np.float32)
    _graph(path, nodes, [("sam_pixels", U8, ["b", 3, SIDE, SIDE])], [("image_embedding", F, ["b", 256, GRID, GRID])], {"w": weight})


def _mask_decoder(path: Path, extra: list, count_from: str, slots: str) -> None:
    """Masks: the embedding's first channel upsampled, minus 0.5, for each of the slots."""
    nodes = [
        helper.make_node("Slice", ["image_embedding", "zero", "one", "axis1"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["up"], mode="nearest"),
        helper.make_node("Sub", ["up", "half"], ["logit"]),
        helper.make_node("ReduceSum", [count_from, "axes2"], ["s"], keepdims=1),
        helper.make_node("Mul", ["s", "nil"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis3"], ["n4"]),
        helper.make_node("Add", ["logit", "n4"], ["low_res_masks"]),
        helper.make_node("ReduceMean", ["low_res_masks"], ["iou_predictions"], axes=[2, 3], keepdims=0),
    ]
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "axis1": np.array([1]), "axes2": np.array([2]), "axis3": np.array([3]),
        "scales": np.array([1, 1, 4, 4], np.float32), "half": np.array(0.5, np.float32), "nil": np.array(0, np.float32),
    }  # fmt: skip
    embedding = ("image_embedding", F, ["b", 256, GRID, GRID])
    outputs = [("low_res_masks", F, ["b", slots, 4 * GRID, 4 * GRID]), ("iou_predictions", F, ["b", slots])]
    _graph(path, nodes, [embedding, *extra], outputs, constants)


def _vision_encoder(path: Path) -> None:
    """8 x 8 patches of mean colours; the patch features are two stages of unit length."""
    nodes = [
        helper.make_node("Cast", ["vision_pixels"], ["x"], to=F),
        helper.make_node("Add", ["x", "one"], ["x1"]),
        helper.make_node("AveragePool", ["x1"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Reshape", ["p", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["image_features"], perm=[0, 2, 1]),
        helper.make_node("LpNormalization", ["image_features"], ["unit"], axis=2, p=2),
        helper.make_node("Concat", ["unit", "unit"], ["patch_features"], axis=2),
        helper.make_node("ReduceMean", ["p"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Slice", ["mean", "zero", "two", "axis1"], ["picture_evidence"]),
    ]
    outputs = [("image_features", F, ["b", 64, 3]), ("patch_features", F, ["b", 64, 6]), ("picture_evidence", F, ["b", 2])]
    constants = {
        "one": np.array(1, np.float32), "shape": np.array([0, 3, 64]),
        "zero": np.array([0]), "two": np.array([2]), "axis1": np.array([1]),
    }  # fmt: skip
    _graph(path, nodes, [("vision_pixels", U8, ["b", 3, VISION, VISION])], outputs, constants)


_ANSWER = '''
import time
import numpy as np
from sightline_ensemble import ledger, steps


def pieces(inputs):
    """(text, seg_count) of a stand-in answer, a piece a time."""
    yes = inputs["image_features"].mean() > 128
    words = "Yes, there is a bright place.".split(" ") if yes else "No, there is no anomaly in the image.".split(" ")
    for index, word in enumerate(words):
        if b"slow" in inputs["dialogue"][0]:
            time.sleep(0.05)
        yield (word if not index else " " + word), int(yes), 0.9 if yes else 0.1, index + 1


def outputs(text, count, probability, tokens, start, status=""):
    slots = np.zeros((1, 4, 256), np.float32)
    slots[:, :count] = 1
    return {"answer": steps.string(text), "seg_embeddings": slots, "seg_count": np.array([count], np.int32),
            "seg_probability": np.array([probability], np.float32), "tokens": np.array([tokens], np.int32),
            "status": steps.string(status), "lisa_clock": steps.clock(start)}
'''

_FRONT = (
    _ANSWER
    + """

class TritonPythonModel:
    def execute(self, requests):
        return steps.answer_each(requests, self.answer, "lisa", ticket="ticket")

    def answer(self, request):
        start = time.monotonic_ns()
        inputs = steps.arrays(request, ["image_features", "dialogue", "ticket"])
        said = []
        for piece in pieces(inputs):
            ledger.check(ledger.as_ticket(inputs["ticket"]))
            said.append(piece)
        return outputs("".join(p[0] for p in said), *said[-1][1:], start)
"""
)

_ENGINE = (
    _ANSWER
    + """
import threading
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            inputs = steps.arrays(request, ["image_features", "dialogue", "ticket"])
            threading.Thread(target=self.run, args=(request.get_response_sender(), inputs)).start()

    def run(self, sender, inputs):
        start = time.monotonic_ns()
        for piece in pieces(inputs):
            state = ledger.state(ledger.as_ticket(inputs["ticket"]))
            if state != "live":
                status = "CANCELLED: cancelled by the client" if state == "cancelled" else "UNAVAILABLE: timeout: too late"
                sender.send(steps.response(outputs("", 0, -1, 0, start, status)))
                break
            sender.send(steps.response(outputs(*piece, start)))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
)


def build(source: Path, target: Path) -> Path:
    """A copy of the repository `source` with stand-in artefacts of profile PROFILE in `target`."""
    shutil.copytree(source, target, ignore=lambda folder, names: [n for n in names if (Path(folder) / n / "manifest.json").exists()])
    path = {name: target / name / "1" / PROFILE / "model.onnx" for name in ENGINES}
    _sam_encoder(path["sam_encoder"])
    _mask_decoder(path["sam_decoder"], [("point_coords", F, ["b", "p", "n", 2]), ("point_labels", F, ["b", "p", "n"])], "point_labels", "p")
    _mask_decoder(path["lisa_decoder"], [("seg_embeddings", F, ["b", "k", 256])], "seg_embeddings", "k")
    _vision_encoder(path["vision_encoder"])
    stages = [[channels, 8, 8] for channels in CHANNELS]
    dims = {
        "sam_encoder": {"image_size": SIDE},
        "sam_decoder": {"mask_size": 4 * GRID},
        "vision_encoder": {"image_size": VISION, "resize": "squash", "resample": "bicubic", "stages": stages, "tokens": 64, "width": 3},
        "lisa_decoder": {"slots": 4, "width": 256},
    }
    for name in ENGINES:
        write_manifest(target / name, PROFILE, ["model.onnx"], source={"made": "by the tests"}, precision="float32", dims=dims[name])
    for name, code in (("lisa", _FRONT), ("lisa_engine", _ENGINE)):
        (target / name / "1").mkdir(exist_ok=True)
        (target / name / "1" / "model.py").write_text(code)
    note = target / "lisa_engine" / "1" / PROFILE / "note.txt"
    note.parent.mkdir()
    note.write_text("no weights\n")
    write_manifest(target / "lisa_engine", PROFILE, [note.name], source={"made": "by the tests"}, precision="none")
    return target

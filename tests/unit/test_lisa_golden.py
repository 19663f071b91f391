"""Golden checkpoint A, exported whole and asked through its artefacts: the reference's tokens, text, vectors and masks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import golden_a
import numpy as np
import pytest
import torch
from lisa_small import Asked
from sightline_ensemble.artefacts import file_hash, load_manifest, verify, write_manifest
from sightline_ensemble.contract import SEG_SLOTS
from sightline_ensemble.cutout import vision_pixels
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.limits import Limits
from sightline_ensemble.lisa.sequence import Request
from sightline_ensemble.onnx import defects, session
from sightline_ensemble.picture import sam_pixels
from sightline_ensemble.upsample import upsampler
from sightline_export import lisa, lisa_language, lisa_steps
from sightline_export.checkpoint import CheckpointError
from sightline_export.lisa import Order, export_lisa, sam_of
from sightline_export.lisa_sam import inner_sam
from sightline_export.sam_encoder import SIZES
from sightline_export.shards import open_shards

PROFILE = "golden"


class Watched:
    """An engine whose hidden states, logits and answers are kept, in the order they were computed."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.engine = Engine.load(folder, limits=limits or Limits(threads=1))
        self.hidden: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []
        self.answers: dict[int, list[int]] = {}  # by the request's id()
        self.heard: Callable[[], None] = lambda: None  # called by the engine's thread after each step
        model, sampler = self.engine.runner.model, self.engine.sampler
        logits, choose = model.logits, sampler.next

        def kept_logits(hidden: torch.Tensor) -> torch.Tensor:
            self.logits.append(logits(hidden).clone())
            return self.logits[-1].clone()

        def kept_next(sequences: list, hidden: torch.Tensor) -> list[int]:
            self.hidden.append(hidden.clone())
            tokens = choose(sequences, hidden)
            for sequence, token in zip(sequences, tokens, strict=True):
                self.answers.setdefault(id(sequence.request), []).append(token)
            self.heard()
            return tokens

        model.logits, sampler.next = kept_logits, kept_next  # type: ignore[method-assign]


def answer_of(case: int) -> list[int]:
    """The reference's new tokens."""
    return golden_a.of(case, "output_ids")[len(golden_a.of(case, "input_ids")) :].tolist()


def text_of(case: int) -> str:
    """The reference's text as the contract wants it: without [SEG]."""
    return " ".join(str(golden_a.of(case, "answer")).replace("</s>", "").replace("[SEG]", "").split())


@pytest.fixture(scope="session")
def repository(golden_repository) -> Path:
    return golden_repository


@pytest.fixture(scope="module")
def folder(repository) -> Path:
    return load_manifest(repository / "lisa_engine", PROFILE).folder


@pytest.fixture(scope="module")
def requests(repository) -> list[Request]:
    manifest = load_manifest(repository / "vision_encoder", PROFILE)
    parts = [np.asarray(golden_a.picture(case)) for case in golden_a.CASES]
    pixels = np.concatenate([vision_pixels(part, manifest.dims) for part in parts])
    features = session(manifest.path("model.onnx")).run(["image_features"], {"vision_pixels": pixels})[0]
    most = int(golden_a.expected()["max_new_tokens"])
    return [Request(features[case], str(golden_a.of(case, "question")), max_tokens=most) for case in golden_a.CASES]


@pytest.fixture
def watched(folder) -> Iterator[Watched]:
    made = Watched(folder)
    yield made
    made.engine.close()


def assert_segs(case: int, found: np.ndarray, count: int) -> None:
    expected = golden_a.of(case, "seg_embeddings")
    assert count == len(expected) and not found[count:].any()
    np.testing.assert_allclose(found[:count], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", golden_a.CASES)
def test_one_by_one_everything_is_the_references(watched, requests, case):
    final = Asked(watched.engine, requests[case]).wait()
    assert final.status == "" and final.text == text_of(case)
    assert watched.answers[id(requests[case])] == answer_of(case)
    torch.testing.assert_close(torch.cat(watched.logits).numpy(), golden_a.of(case, "step_logits"), atol=1e-4, rtol=0)
    hidden = torch.cat(watched.hidden)
    torch.testing.assert_close(hidden.numpy(), golden_a.of(case, "final_hidden_answer"), atol=1e-4, rtol=0)
    before = [i for i, token in enumerate(answer_of(case)) if token == watched.engine.config.seg]
    torch.testing.assert_close(hidden[before].numpy(), golden_a.of(case, "seg_hidden"), atol=1e-4, rtol=0)
    assert_segs(case, final.seg_embeddings, final.seg_count)


@pytest.mark.parametrize("case", golden_a.CASES)
@torch.inference_mode()
def test_the_prompts_vectors_are_the_references(watched, requests, case):
    model, engine = watched.engine.runner.model, watched.engine
    pictures = model.project(torch.from_numpy(requests[case].features))
    torch.testing.assert_close(pictures[::8].numpy(), golden_a.of(case, "image_features_sub8"), atol=1e-4, rtol=0)
    row = torch.tensor(engine.prompter.build(requests[case].question, (), len(pictures)))
    vectors = model.embed(row.clamp(min=0))
    vectors[row == -1] = pictures
    torch.testing.assert_close(vectors[::8].numpy(), golden_a.of(case, "inputs_embeds_sub8"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("limits", [Limits(threads=1), Limits(threads=1, chunk=100, running=2, cache_tokens=2048)])
def test_all_in_one_batch_that_joins_one_after_the_other(folder, requests, limits):
    """Each arrives while the one before it answers; chunked prompts, and two at a time, change nothing either."""
    watched, asked = Watched(folder, limits), []

    def ask_next() -> None:
        last = id(requests[len(asked) - 1])
        if len(asked) < len(requests) and len(watched.answers.get(last, ())) == 2:
            asked.append(Asked(watched.engine, requests[len(asked)]))

    watched.heard = ask_next
    asked.append(Asked(watched.engine, requests[0]))
    while len(asked) < len(requests):
        time.sleep(0.001)
    finals = [each.wait() for each in asked]
    watched.engine.close()
    assert max(len(hidden) for hidden in watched.hidden) > 1, "nothing ran together"
    for case, final in enumerate(finals):
        assert watched.answers[id(requests[case])] == answer_of(case) and final.text == text_of(case)
        assert_segs(case, final.seg_embeddings, final.seg_count)


@pytest.mark.parametrize("case", golden_a.CASES)
def test_masks_are_the_references(repository, watched, requests, case):
    final = Asked(watched.engine, requests[case]).wait()
    resized, original = (tuple(golden_a.of(case, f"{name}_size").tolist()) for name in ("resized", "original"))
    encode, decode = (session(load_manifest(repository / model, PROFILE).path("model.onnx")) for model in ("sam_encoder", "lisa_decoder"))
    inputs = {"sam_pixels": sam_pixels(golden_a.picture(case), 1024), "resized_size": np.array([resized], np.int32)}
    embedding = encode.run(None, inputs)[0]
    np.testing.assert_allclose(embedding[0, :, ::8, ::8], golden_a.of(case, "image_embedding_sub8"), atol=1e-4, rtol=0)
    run = defects(lambda arrays: dict(zip(("low_res_masks", "iou_predictions"), decode.run(None, arrays), strict=True)), SEG_SLOTS)
    found = run({"image_embedding": embedding, "seg_embeddings": final.seg_embeddings[None]})
    masks, ious = (found[name][0, : final.seg_count] for name in ("low_res_masks", "iou_predictions"))
    np.testing.assert_allclose(masks, golden_a.of(case, "low_res_logits")[:, 0], atol=2e-3, rtol=0)
    np.testing.assert_allclose(ious, golden_a.of(case, "iou_predictions")[:, 0], atol=5e-5, rtol=0)
    for low_res, expected in zip(masks, golden_a.mask(case), strict=True):
        logits = upsampler(low_res, resized, original, np.arange(original[1]))(np.arange(original[0]))
        assert np.mean((logits > 0) != expected) <= 1e-4


# --- the artefacts ------------------------------------------------------------------------------------------------------
STEPS = ("lisa_decoder", "lisa_engine", "sam_decoder", "sam_encoder", "vision_encoder")


def test_a_whole_profile_is_installed(repository):
    assert sorted(path.parents[2].name for path in repository.glob(f"*/1/{PROFILE}/manifest.json")) == list(STEPS)
    for model in STEPS:
        manifest = load_manifest(repository / model, PROFILE)
        verify(manifest)
        assert {path.name for path in manifest.folder.iterdir()} == {*manifest.files, "manifest.json"}
        assert [path.name for path in manifest.folder.parent.iterdir() if path.is_dir() and path.name != "__pycache__"] == [PROFILE]
        assert "clip" not in manifest.source and len(manifest.source) == (1 if model == "vision_encoder" else 2)
    dims = {model: load_manifest(repository / model, PROFILE).dims for model in STEPS}
    assert dims["lisa_engine"] == {"slots": 4, "width": 256, "image_width": 48, "context": 2048}
    assert dims["lisa_decoder"] == {"slots": 4, "width": 256, "mask_size": 256} and dims["sam_encoder"]["image_size"] == 1024


def nothing(path: Path) -> bool:
    return not path.exists() or not list(path.rglob("*"))


def test_what_fails_late_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(lisa, "sam_of", lambda order, inner: ("", []))
    monkeypatch.setattr(lisa, "write_graph", lambda graph, path: path.write_text("") * 0.0)
    monkeypatch.setattr(lisa_language, "write_safetensors", fail)
    with pytest.raises(OSError, match="no space left"):
        export_lisa(Order(golden_a.checkpoint(), golden_a.CLIP, 32, tmp_path / "r", PROFILE))
    assert nothing(tmp_path / "r")


def test_a_graph_that_differs_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(lisa_steps, "BAR", 0.0)
    with pytest.raises(lisa_steps.Differs, match="vision_encoder: differs from the original by .* expected at most"):
        export_lisa(Order(golden_a.checkpoint(), golden_a.CLIP, 32, tmp_path / "r", PROFILE))
    assert nothing(tmp_path / "r")


# --- whose SAM ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def released(tmp_path, monkeypatch) -> Path:
    """A SAM file whose encoder is LISA's, and whose decoder is not; its size counts as a released one."""
    inner = inner_sam(open_shards(golden_a.checkpoint()))
    monkeypatch.setitem(SIZES, inner.size.name, inner.size)
    prefix = "model.visual_model."
    state = {name.removeprefix(prefix): value.clone() for name, value in golden_a.state().items() if name.startswith(prefix)}
    state["mask_decoder.iou_token.weight"] += 1
    torch.save(state, tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


def order(released: Path | None, repository: Path) -> Order:
    return Order(golden_a.checkpoint(), golden_a.CLIP, 32, repository, PROFILE, released)


def test_the_released_sam_is_used_and_shared(released, tmp_path):
    inner = inner_sam(open_shards(golden_a.checkpoint()))
    words, graphs = sam_of(order(released, tmp_path / "r"), inner)
    assert "were made from it" in words and [(g.model, g.origin) for g in graphs] == [("sam_encoder", "sam"), ("sam_decoder", "sam")]
    assert not torch.equal(graphs[1].module.mask_decoder.iou_token.weight, inner.decoder.iou_token.weight)
    for model in ("sam_encoder", "sam_decoder"):
        (tmp_path / "r" / model / "1" / PROFILE).mkdir(parents=True)
        write_manifest(tmp_path / "r" / model, PROFILE, [], source={"sam.pth": file_hash(released)}, precision="fp32")
    words, graphs = sam_of(order(released, tmp_path / "r"), inner)
    assert "sam_encoder is shared" in words and not graphs


def test_another_sam_is_not_shared(released, tmp_path):
    inner = inner_sam(open_shards(golden_a.checkpoint()))
    inner.encoder.neck[0].weight.mul_(1.01)
    words, graphs = sam_of(order(released, tmp_path / "r"), inner)
    assert "('neck.0.weight' differs)" in words and {g.origin for g in graphs} == {"lisa"}
    words, graphs = sam_of(order(None, tmp_path / "r"), inner)
    assert "no released SAM was given" in words and graphs[0].module is inner.encoder


def test_a_sam_of_no_released_size_is_not_looked_for(tmp_path):
    inner = inner_sam(open_shards(golden_a.checkpoint()))
    with pytest.raises(CheckpointError, match="sam.pth: SAM inside checkpoint is of no released size"):
        sam_of(order(tmp_path / "sam.pth", tmp_path / "r"), inner)

"""Golden checkpoint A, exported and asked through the engine: the reference's tokens, text, vectors and masks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import golden_a
import numpy as np
import pytest
import torch
from lisa_small import Asked
from sightline_ensemble.cutout import vision_pixels
from sightline_ensemble.lisa.engine import Engine, Limits
from sightline_ensemble.lisa.sequence import Request
from sightline_ensemble.picture import sam_pixels
from sightline_ensemble.upsample import upsampler
from sightline_export.checkpoint import Sam
from sightline_export.clip import load_clip
from sightline_export.graphs import LisaDecoder
from sightline_export.lisa_checkpoint import read_lisa
from sightline_export.lisa_language import write_language
from sightline_export.lisa_sam import inner_sam
from sightline_export.shards import open_shards


class Watched:
    """An engine whose hidden states, logits and answers are kept, in the order they were computed."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.engine = Engine.load(folder, limits=limits or Limits(prefill_threads=1))
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bits32")
    write_language(read_lisa(golden_a.checkpoint()), made, 32)
    return made


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    clip = load_clip(golden_a.CLIP)
    pixels = [torch.from_numpy(vision_pixels(np.asarray(golden_a.picture(case)), clip.size.dims)) for case in golden_a.CASES]
    with torch.inference_mode():
        features = clip(torch.cat(pixels))[0].numpy()
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
    np.testing.assert_allclose(found[:count], expected, atol=5e-4, rtol=0)


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


@pytest.mark.parametrize("limits", [Limits(prefill_threads=1), Limits(prefill_threads=1, chunk=100, running=2, cache_tokens=2048)])
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


@pytest.fixture(scope="module")
def sam() -> Sam:
    return inner_sam(open_shards(golden_a.checkpoint()))


@pytest.mark.parametrize("case", [0, 1, 2])
@torch.inference_mode()
def test_masks_are_the_references(watched, requests, sam, case):
    final = Asked(watched.engine, requests[case]).wait()
    resized, original = (tuple(golden_a.of(case, f"{name}_size").tolist()) for name in ("resized", "original"))
    pixels = torch.from_numpy(sam_pixels(golden_a.picture(case), sam.size.image_size))
    embedding = sam.encoder(pixels, torch.tensor([resized], dtype=torch.int32))
    decode = LisaDecoder(sam.prompts, sam.decoder, sam.size.grid, sam.size.image_size)
    masks, ious = decode(embedding, torch.from_numpy(final.seg_embeddings[None, : final.seg_count]))
    torch.testing.assert_close(masks[0].numpy(), golden_a.of(case, "low_res_logits")[:, 0], atol=2e-3, rtol=0)
    torch.testing.assert_close(ious[0].numpy(), golden_a.of(case, "iou_predictions")[:, 0], atol=5e-5, rtol=0)
    for found, expected in zip(masks[0].numpy(), golden_a.mask(case), strict=True):
        logits = upsampler(found, resized, original, np.arange(original[1]))(np.arange(original[0]))
        assert np.mean((logits > 0) != expected) <= 1e-4

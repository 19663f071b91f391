"""A dialogue about one picture: the first verdict holds, the sentence names the masks' places, a later question costs less."""

from __future__ import annotations

from collections.abc import Iterator

import dialogue
import numpy as np
import pytest
import sightline
from conftest import tiny_server
from sightline_ensemble.lisa.guide import spoken
from sightline_training.data import cells
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.alone

BAD, GOOD = ([cell for cell in cells("test") if cell.probability == p] for p in (1, 0))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as `sightline-serve` starts it: with the response cache."""
    with tiny_server(tmp_path_factory.mktemp("products")) as own:
        yield own.grpc


@pytest.fixture(scope="module")
def talking(address: str) -> Iterator[sightline.Client]:
    with sightline.Client(address) as client:
        yield client


@pytest.mark.parametrize("cell", [BAD[0], BAD[7], GOOD[0]], ids=lambda cell: cell.name)
def test_four_turns_without_a_contradiction(talking, cell):
    turns = dialogue.converse(talking, cell)
    assert dialogue.problems(turns) == [[]] * 4
    assert len({turn.report.prompt for turn in turns}) == 4 and all(turn.report.text for turn in turns)


def test_a_later_question_does_not_compute_the_picture_again(talking):
    first = talking.inspect(BAD[1].path)
    history = [{"role": "user", "content": first.prompt}, {"role": "assistant", "content": first.text}]
    later = talking.inspect(BAD[1].path, prompt="What could have caused it?", history=history)
    assert min(first.timings_ms["sam_encoder"], first.timings_ms["vision_encoder"]) > 5
    assert max(later.timings_ms["sam_encoder"], later.timings_ms["vision_encoder"]) < 5
    assert later.timings_ms["lisa"] < 0.3 * first.timings_ms["lisa"]
    other = talking.inspect(BAD[2].path)
    assert other.timings_ms["sam_encoder"] > 5 and not np.array_equal(other.mask, first.mask)


def test_a_picture_may_be_inspected_and_enrolled_in_any_order(talking):
    """Enrolling computes some of what an inspection needs: Triton's cache must not keep just that, nor hand on more than was asked."""
    for box, first, second in ((None, *GOOD[2:4]), ([20, 20, 280, 280], *GOOD[4:6])):
        assert talking.inspect(first.path, box=box).text
        talking.enroll("seen", [first.path, second.path], box=box)
        assert talking.inspect(second.path, box=box).text and talking.inspect(first.path, product="seen", box=box).experts
    talking.remove("seen")


def test_the_sentence_names_the_places_of_the_masks(talking):
    for cell in BAD[3:9]:
        report = talking.inspect(cell.path)
        if report.anomaly:
            assert f"at the {spoken(report.locations)} of the image" in report.text
        else:
            assert report.text.startswith("No,") and not report.locations


def ask(address: str, layout: str) -> str:
    image, expert = InferInput("IMAGE", [1], "BYTES"), InferInput("EXPERT", [1], "BYTES")
    image.set_data_from_numpy(np.array([GOOD[1].path.read_bytes()], object))
    expert.set_data_from_numpy(np.array([b"The press was warm"], object))
    with InferenceServerClient(address) as client:
        result = client.infer("inspect", [image, expert], parameters={"prompt_layout": layout})
    return sightline.report.parse(result.as_numpy("REPORT")[0]).prompt


def test_prompt_layouts(address):
    assert ask(address, "v0").startswith("The press was warm. Is there any anomaly")
    assert ask(address, "v1") == ask(address, "v2") == ask(address, "v0").replace("warm. ", "warm.\n")
    with pytest.raises(InferenceServerException, match="INVALID_ARGUMENT: prompt_layout: 'v3', expected one of v0, v1, v2"):
        ask(address, "v3")

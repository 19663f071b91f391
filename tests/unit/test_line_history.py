"""Records name their history, what was asked and the request; errors that are not the picture's own are no last word."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import sightline
from client_fake import Call, FakeTriton, Refuse, answer, crack, report
from line_fake import Memory, Pictures, check_history
from PIL import Image
from sightline.line import Line, Pace, Part, Record, Store
from sightline.line.inspection import Inspector
from sightline.line.jsonl import Jsonl
from sightline.line.parts import Result
from sightline.line.stats import Counter

VERDICT = Record(1, "cell", 1, "part.png", 0.0, "anomaly", False, report((crack(),)), None, "first")


def written(path: Path) -> list[tuple[str, int]]:
    return [(line["history"], line["seq"]) for line in map(json.loads, path.read_text().splitlines())]


def test_a_new_state_folder_is_a_new_history(tmp_path: Path) -> None:
    names = []
    for folder in ("a", "a", "b"):
        store = Store(tmp_path / folder, "cell")
        store.enrol_sinks(["sink"])
        store.publish([(store.accept(None), Result("not_inspected"))])
        names.append(store.pending("sink")[-1].history)
        store.close()
    assert names[0] == names[1] != names[2] and all(names)


def test_jsonl_leaves_out_only_what_it_has_of_the_same_history(tmp_path: Path) -> None:
    """The state folder was deleted: records count from 1 again, and not one of them may be dropped."""
    path = tmp_path / "line.jsonl"
    for history, seqs in (("first", (1, 2, 3)), ("second", (1, 2)), ("second", (2, 3))):
        sink = Jsonl(path)
        sink.open()
        for seq in seqs:
            sink.deliver(replace(VERDICT, history=history, seq=seq), lambda: None)
        sink.close()
    assert written(path) == [("first", 1), ("first", 2), ("first", 3), ("second", 1), ("second", 2), ("second", 3)]


def test_jsonl_goes_on_behind_lines_that_had_no_history(tmp_path: Path) -> None:
    (tmp_path / "line.jsonl").write_text('{"schema":"sightline-line/1","seq":7}\n')
    sink = Jsonl(tmp_path / "line.jsonl")
    sink.open()
    sink.deliver(VERDICT, lambda: None)
    sink.close()
    assert (tmp_path / "line.jsonl").read_text().count("\n") == 2


def test_an_overlay_that_does_not_fit_holds_up_no_record(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("L", (41, 30)).save(picture, "PNG")  # the report is about 40 x 30
    sink = Jsonl(tmp_path / "line.jsonl", tmp_path / "overlays")
    sink.open()
    sink.deliver(VERDICT, picture.getvalue)
    sink.close()
    assert written(tmp_path / "line.jsonl") == [("first", 1)] and not list((tmp_path / "overlays").iterdir())


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    fake = FakeTriton(answer)
    yield fake
    fake.stop()


def test_records_say_what_was_asked_and_under_which_name(server: FakeTriton, tmp_path: Path) -> None:
    store, sink = Store(tmp_path, "cell"), Memory()
    options = {"product": "cell", "prompt": "Is it cracked?", "max_tokens": 40}
    with sightline.Client(server.url) as client:
        Line("cell", client, Pictures(3), {"memory": sink}, store, Pace(0.001, 5), options).run()
    store.close()
    check_history(sink.got)
    told = [record.values() for record in sink.got]
    assert {line["request_id"] for line in told} == {call.id for call in server.calls} and len(server.calls) == 3
    assert all(line["asked"] == {"product": "cell", "prompt": "Is it cracked?"} for line in told)


def inspected(client: sightline.Client, folder: Path, **options: object) -> Result:
    (folder / "part.bin").write_bytes(b"good")
    return Inspector(client, "cell", options, Counter()).inspect(Part(1, "part", 0.0, folder / "part.bin"), 5)


def test_pictures_of_normal_parts_are_read_once(server: FakeTriton, tmp_path: Path) -> None:
    """The share they lie on is gone afterwards: no part is lost by it. Where it is gone before, the line does not start."""
    reference = tmp_path / "good.png"
    reference.write_bytes(b"reference")
    (tmp_path / "part.bin").write_bytes(b"good")
    with sightline.Client(server.url) as client:
        inspector = Inspector(client, "cell", {"reference": [reference]}, Counter())
        reference.unlink()
        assert inspector.inspect(Part(1, "part", 0.0, tmp_path / "part.bin"), 5).outcome == "normal"
        assert server.calls[-1].inputs["REFERENCE"] == [b"reference"]
        with pytest.raises(sightline.InvalidInput, match="REFERENCE: cannot read"):
            Inspector(client, "cell", {"reference": [reference]}, Counter())


@pytest.mark.parametrize(
    ("words", "again"),
    [
        ("INVALID_ARGUMENT: IMAGE: cannot be decoded, expected JPEG", False),
        ("INVALID_ARGUMENT: BOX: outside of the picture, expected a box that meets 40 x 30 pixels", False),
        ("INVALID_ARGUMENT: PRODUCT: its box lies outside of this picture, expected a picture like the enrolled ones", False),
        ("INVALID_ARGUMENT: REFERENCE: expected 1 to 16 pictures", True),
        ("INVALID_ARGUMENT: PROMPT: expected at most 2000 characters", True),
        ("NOT_FOUND: no product is named cell", True),
    ],
)
def test_only_what_is_wrong_with_the_picture_is_final(tmp_path: Path, words: str, again: bool) -> None:
    def refuse(call: Call) -> Iterator[dict[str, object]]:
        raise Refuse(grpc.StatusCode.INVALID_ARGUMENT if "INVALID" in words else grpc.StatusCode.NOT_FOUND, words)
        yield

    fake = FakeTriton(refuse)
    with sightline.Client(fake.url) as client:
        result = inspected(client, tmp_path)
    fake.stop()
    assert (result.outcome, result.again, result.request_id) == ("not_inspected", again, "cell-1")

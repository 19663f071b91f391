"""Operators' feedback: what is kept, and a false alarm that becomes a normal part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sightline
from client_fake import Call, FakeTriton, Refuse, crack, report
from grpc import StatusCode
from sightline.cli import main
from sightline.feedback import Feedback
from sightline.line import Record


class Learning:
    """A server whose product calls everything an anomaly that it was not enrolled with."""

    def __init__(self) -> None:
        self.enrolled: list[dict[str, object]] = []
        self.fails = False
        self.fake = FakeTriton(self.answer)

    def answer(self, call: Call) -> Iterator[dict[str, object]]:
        if call.model == "inspect":
            known = self.enrolled and call.inputs["IMAGE"][0] in self.enrolled[-1]["IMAGES"]
            yield {"REPORT": json.dumps(report(() if known else (crack(),))), "HEATMAP": np.zeros((0, 0), np.uint8)}
        elif call.inputs["ACTION"] == [b"describe"]:
            yield {"REPORT": json.dumps({"action": "describe", "product": self.product()})}
        else:
            if self.fails:
                raise Refuse(StatusCode.INTERNAL, "vision_encoder: RuntimeError")
            self.enrolled.append(call.inputs)
            yield {"REPORT": json.dumps({"action": "enroll", "product": self.product()})}

    def product(self) -> dict[str, object]:
        created = f"2026-11-22T03:00:{len(self.enrolled):02d}+00:00"
        return {"name": "cell", "description": "A cell.", "prompt": "", "box": [1.0, 2.0, 30.0, 20.0], "created": created}


@pytest.fixture
def server() -> Iterator[Learning]:
    made = Learning()
    yield made
    made.fake.stop()


def test_a_mark_keeps_picture_report_and_hashes(server: Learning, tmp_path: Path) -> None:
    with sightline.Client(server.fake.url) as client:
        found = client.inspect(b"part", request_id="part-7")
    made = Feedback(tmp_path).mark(b"part", found, "false_alarm", product="cell", operator="Ada", note="only dust")
    later = Feedback(tmp_path)
    assert later.marks() == [made] and later.picture(made) == b"part" and later.report(made) == found
    assert (made.artefacts, made.request_id, made.operator) == ({"lisa": "sha256:0"}, "part-7", "Ada")
    with pytest.raises(sightline.InvalidInput, match="does not fit"):
        later.mark(b"part", found, "missed")


def test_a_false_alarm_is_learnt_and_the_effect_is_shown(server: Learning, tmp_path: Path) -> None:
    kept = Feedback(tmp_path)
    with sightline.Client(server.fake.url) as client:
        kept.enroll(client, "cell", [b"good 1", b"good 2"], description="A cell.")
        mark = kept.mark(b"dusty", client.inspect(b"dusty", product="cell"), "false_alarm", product="cell")
        effect = kept.accept(client, mark)
        assert effect.cured and effect.images == 3 and kept.marks()[0].accepted
        again = kept.accept(client, mark)
        assert again.images == 3 and not again.cured  # it is normal already
    last = server.enrolled[1]
    assert last["IMAGES"] == [b"good 1", b"good 2", b"dusty"] and last["DESCRIPTION"] == [b"A cell."] and "PROMPT" not in last
    assert last["BOX"].tolist() == [1, 2, 30, 20]


def test_an_enrolment_that_fails_changes_nothing(server: Learning, tmp_path: Path) -> None:
    kept = Feedback(tmp_path)
    with sightline.Client(server.fake.url) as client:
        kept.enroll(client, "cell", [b"good"])
        mark = kept.mark(b"dusty", client.inspect(b"dusty"), "false_alarm", product="cell")
        server.fails = True
        with pytest.raises(sightline.ServerFault):
            kept.accept(client, mark)
        server.fails = False
        assert not kept.marks()[0].accepted and kept.accept(client, mark).images == 2


def test_an_enrolment_of_somebody_else_is_not_undone(server: Learning, tmp_path: Path) -> None:
    """Nothing is known of its pictures. Kept pictures whose enrolment nobody knows are not trusted either."""
    kept = Feedback(tmp_path)
    with sightline.Client(server.fake.url) as client:
        kept.enroll(client, "cell", [b"good"])
        mark = kept.mark(b"dusty", client.inspect(b"dusty"), "false_alarm", product="cell")
        client.enroll("cell", [b"better"])
        with pytest.raises(sightline.InvalidInput, match="enrolled again elsewhere"):
            kept.accept(client, mark)
        assert len(server.enrolled) == 2 and not kept.marks()[0].accepted
        kept.enroll(client, "cell", [b"better"])
        assert kept.accept(client, mark).images == 2 and server.enrolled[-1]["IMAGES"] == [b"better", b"dusty"]
        (tmp_path / "products" / "cell" / "created.json").unlink()
        with pytest.raises(sightline.InvalidInput, match="enrolled again elsewhere"):
            kept.accept(client, mark)


def test_what_cannot_be_learnt_is_said(server: Learning, tmp_path: Path) -> None:
    kept = Feedback(tmp_path)
    with sightline.Client(server.fake.url) as client:
        found = client.inspect(b"x")
        with pytest.raises(sightline.InvalidInput, match="about a product"):
            kept.accept(client, kept.mark(b"x", found, "false_alarm"))
        with pytest.raises(sightline.UnknownProduct, match="kept here"):
            kept.accept(client, kept.mark(b"x", found, "false_alarm", product="cell"))


def test_the_command_marks_and_teaches(
    server: Learning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTLINE_URL", server.fake.url)
    Path("good.png").write_bytes(b"good"), Path("dusty.png").write_bytes(b"dusty")
    assert main(["feedback", "list"]) == 0 and not Path("feedback").exists()
    assert main(["enroll", "cell", "good.png", "--feedback", "feedback"]) == 0
    assert main(["feedback", "mark", "dusty.png", "false_alarm", "--product", "cell", "--operator", "Ada", "--note", "only dust"]) == 0
    (mark,) = Feedback("feedback").marks()
    capsys.readouterr()
    assert main(["feedback", "list"]) == 0
    assert mark.id in (shown := capsys.readouterr().out) and "false_alarm  cell  Ada  only dust" in shown and "accepted" not in shown
    assert main(["feedback", "accept", mark.id[-8:]]) == 0
    before, after, product = capsys.readouterr().out.splitlines()
    assert "ANOMALY" in before and "score 0.93" in before and "NORMAL" in after and "score 0.08" in after and "2 pictures" in product
    assert main(["feedback", "list", "--json"]) == 0 and json.loads(capsys.readouterr().out)["accepted"]
    assert main(["feedback", "accept", "nothing"]) == 2 and "0 of the 1 kept marks" in capsys.readouterr().err


def test_the_command_marks_an_answer_of_a_batch(server: Learning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """The answer the operator saw is kept, not a new one; and one action both marks and teaches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTLINE_URL", server.fake.url)
    Path("in").mkdir(), Path("in/dusty.png").write_bytes(b"dusty"), Path("good.png").write_bytes(b"good")
    main(["enroll", "cell", "good.png", "--feedback", "kept"])
    assert main(["batch", "in", "--out", "o.jsonl", "--product", "cell"]) == 1
    asked = server.fake.calls[-1].id
    line = ["feedback", "mark", "in/dusty.png", "false_alarm", "--results", "o.jsonl", "--feedback", "kept"]
    assert main(line) == 0 and server.fake.calls[-1].id == asked
    (mark,) = Feedback("kept").marks()
    assert (mark.product, mark.request_id) == ("cell", asked) and set(mark.report) == set(report())
    capsys.readouterr()
    assert main([*line, "--accept", "--json"]) == 0
    marked, effect = map(json.loads, capsys.readouterr().out.splitlines())
    assert (effect["mark"], effect["cured"], effect["images"]) == (marked["id"], True, 2)
    assert (effect["before"]["score"], effect["after"]["score"]) == (0.93, 0.08)
    assert main([*line[:2], "absent.png", *line[3:]]) == 2 and "no answer about absent.png" in capsys.readouterr().err
    assert main([*line[:3], "missed", *line[4:]]) == 2 and "does not fit" in capsys.readouterr().err


def test_the_command_marks_a_part_of_a_line(server: Learning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """The line names a picture as its folder does. No overlay can be drawn on this one: its record comes all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTLINE_URL", server.fake.url)
    Path("in/left").mkdir(parents=True), Path("in/left/dusty.png").write_bytes(b"dusty")
    main(["watch", "in", "--once", "--out", "seen", "--takt", "0.05", "--product", "cell"])
    calls = len(server.fake.calls)
    mark = ["feedback", "mark", "in/left/dusty.png", "false_alarm", "--results", "seen/results.jsonl"]
    with Path("seen/results.jsonl").open("ab") as file:
        file.write('{"schema":"sightline-line/1","name":"dü'.encode()[:-1])  # the line goes on writing
    assert main(mark) == 0 and len(server.fake.calls) == calls, "nothing is inspected again"
    (kept,) = Feedback("feedback").marks()
    assert (kept.mistake, kept.product) == ("false_alarm", "cell") and kept.report["score"] == 0.93
    assert kept.request_id == server.fake.calls[-1].id == "watch-1" and set(kept.report) == set(report())
    assert main([*mark[:2], "in/dusty.png", *mark[3:]]) == 2 and "no answer about in/dusty.png" in capsys.readouterr().err


def test_results_that_say_too_little_are_refused(server: Learning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("dusty.png").write_bytes(b"dusty")
    slim = Record(1, "cell", 1, "dusty.png", 0.0, "anomaly", False, report((crack(),)), None).json(full=False)
    mark = ["feedback", "mark", "dusty.png", "false_alarm", "--results", "line.jsonl", "--url", server.fake.url]
    for content, words in ((slim + "\n", "full = true keeps them"), ("half\n" + slim, "line 1 is not JSON"), (None, "No such file")):
        Path("line.jsonl").write_text(content) if content else Path("line.jsonl").unlink()
        assert main(mark) == 2 and words in capsys.readouterr().err

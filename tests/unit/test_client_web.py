"""The web page without a browser: what its actions answer, and what it needs. tests/web has the rest."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sightline
from client_fake import FakeTriton, answer, report
from PIL import Image
from sightline.pictures import to_rgb
from sightline.web import actions, pictures, words
from sightline.web.plant import Plant, Setup, find_samples
from sightline.web.session import Session, Update


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    made = FakeTriton(answer)
    yield made
    made.stop()


@pytest.fixture
def plant(fake: FakeTriton, tmp_path: Path) -> Plant:
    return Plant(Setup(fake.url, feedback=tmp_path / "feedback"))


def picture(words: bytes = b"") -> bytes:
    """A PNG whose bytes hold `words`: by them the fake server judges."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 40), 99, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue() + words


def run(plant: Plant, session: Session, **changes: object) -> list[Update]:
    given = {"question": "", "product": "", "references": None, "box": "", "layer": pictures.DEFECTS, **changes}
    return list(actions.inspect(plant, "", session, **given))  # type: ignore[arg-type]


def test_the_verdict_comes_first_and_one_answer_may_be_called_wrong(plant: Plant) -> None:
    updates = run(plant, pictures.opened("part.png", picture(b"bad")))
    assert "INSPECTING" in updates[0]["banner"] and updates[0]["result"] is None and updates[0]["running"]
    assert "ANOMALY" in updates[1]["banner"] and "▍" in updates[1]["banner"] and "crack" not in updates[1]["banner"]
    last = updates[-1]
    assert "Yes, there is a crack." in last["banner"] and (last["alarm"], last["learn"], last["missed"]) == (True, False, False)
    marked = actions.complain(plant, "false_alarm", last["session"], " Ada ", "")
    assert plant.feedback.marks()[0].operator == "Ada" and marked["alarm"] is False
    assert actions.complain(plant, "false_alarm", marked["session"], "", "") == {} and len(plant.feedback.marks()) == 1


@pytest.mark.parametrize(
    ("content", "changes", "told"),
    [
        (picture(b"broken"), {}, "InvalidInput: IMAGE: cannot be decoded"),
        (b"", {}, "IMAGE: no picture was given"),
        (picture(), {"box": "1,2,3"}, "BOX: expected four numbers"),
    ],
    ids=["broken", "none", "box"],
)
def test_whatever_fails_is_not_inspected(plant: Plant, content: bytes, changes: dict[str, object], told: str) -> None:
    last = run(plant, pictures.opened("part.png", content), **changes)[-1]
    assert "NOT INSPECTED" in last["banner"] and told in last["banner"] and "NORMAL" not in last["banner"]
    assert last["result"] is None and not last["missed"] and not last["running"] and last["session"].report is None


def test_a_fault_of_the_page_is_not_inspected(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "layer", lambda *_: 1 / 0)
    assert "NOT INSPECTED" in run(plant, pictures.opened("part.png", picture()))[-1]["banner"]


def test_a_report_about_another_picture_is_not_inspected(tmp_path: Path) -> None:
    fake = FakeTriton(lambda call: iter([{"REPORT": json.dumps(report(size=(3, 4))), "TEXT": "No."}] * 2))
    made = Plant(Setup(fake.url, feedback=tmp_path / "feedback"))
    last = run(made, pictures.opened("part.png", picture()))[-1]
    fake.stop()
    assert "NOT INSPECTED" in last["banner"] and "3 x 4" in last["banner"]


def test_another_picture_takes_the_answer_away(plant: Plant, tmp_path: Path) -> None:
    (tmp_path / "next.png").write_bytes(picture())
    update = actions.take(tmp_path / "next.png")
    assert "next.png" in update["banner"] and "NORMAL" not in update["banner"] and update["result"] is None and update["report"] is None
    assert not (update["alarm"] or update["learn"] or update["missed"]) and update["chat"] == [] and update["box"] == ""


def test_stopping_keeps_what_was_answered(plant: Plant) -> None:
    session = pictures.opened("part.png", picture())
    assert "NOT INSPECTED" in actions.stopped(session)["banner"]
    assert actions.stopped(run(plant, session)[-1]["session"]) == {"running": False}


def test_a_further_question_without_an_answer_is_asked_again(plant: Plant, fake: FakeTriton) -> None:
    session = run(plant, pictures.opened("part.png", picture()))[-1]["session"]
    good = list(actions.ask(session, "Why?", []))[-2]["chat"]
    assert [turn["role"] for turn in good] == ["user", "assistant"] and session.chat is not None and len(session.chat.history) == 4
    fake.stop()
    lost = list(actions.ask(session, "Why?", good))[-1]
    assert "NOT ANSWERED" in lost["chat"][-1]["content"] and lost["question"] == "Why?" and len(session.chat.history) == 4


def test_clicks_make_a_box_in_pixels_of_the_picture(plant: Plant, fake: FakeTriton) -> None:
    session = pictures.opened("part.png", picture())
    assert session.scale == 12
    first = actions.click(session, 36 * 12, 24 * 12)
    second = actions.click(first["session"], 4 * 12, 6 * 12)
    assert first["box"] == "" and second["box"] == "4, 6, 36, 24" and second["session"].corner is None
    run(plant, second["session"], box=second["box"])
    assert fake.calls[-1].inputs["BOX"].tolist() == [4, 6, 36, 24]
    assert actions.click(first["session"], 36 * 12, 24 * 12)["box"] == "", "a box holds something"


def test_a_pull_makes_a_box_whatever_was_clicked_before() -> None:
    session = actions.click(pictures.opened("part.png", picture()), 1.0, 1.0)["session"]
    width, height = session.seen.size
    update = actions.drag(session, f"{36 * 12 / width} {24 * 12 / height} {4 * 12 / width} {6 * 12 / height} 1")
    assert update["box"] == "4, 6, 36, 24" and update["session"].corner is None
    assert actions.drag(pictures.opened("broken.png", b"no picture"), "0 0 1 1 2") == {}, "nothing is shown, so nothing is pulled over"


def test_words_from_outside_are_no_markup() -> None:
    told = words.verdict(sightline.report.parse(json.dumps(report(text="<b>"))), "<script>.png", "<img src=//x>")
    told += words.products([{"name": "a", "description": "<i>"}]) + words.server("<u>", True) + words.note("<s>")
    told += words.not_inspected("<em>", sightline.InvalidInput("<q>"))
    assert not any(tag in told for tag in ("<script>", "<img", "<i>", "<u>", "<s>", "<em>", "<q>"))


def test_only_a_page_for_this_machine_lets_its_users_name_a_server(tmp_path: Path) -> None:
    here, plant = (Plant(Setup("a:1", host, feedback=tmp_path)) for host in ("127.0.0.1", "0.0.0.0"))
    assert (here.client("b:2").url, plant.client("b:2").url, here.client("").url) == ("b:2", "a:1", "a:1")


def test_samples_are_pictures(tmp_path: Path) -> None:
    """One that cannot be shown is none: a click on the next one must not choose it."""
    for name in ("c.png", "b.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "a.png").write_bytes(b"torn"), (tmp_path / "folder.png").mkdir()
    assert [(sample.path.name, sample.seen.size) for sample in find_samples(tmp_path)] == [("b.JPG", (480, 360)), ("c.png", (480, 360))]
    assert len(find_samples(tmp_path, 1)) == 1


@pytest.mark.parametrize("error", [Image.DecompressionBombError("too large"), struct.error("torn"), MemoryError(), RuntimeError("decoder")])
def test_a_picture_that_cannot_be_shown_takes_the_one_before_away(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    (tmp_path / "odd.png").write_bytes(picture())
    monkeypatch.setattr(Image, "open", fail)
    update = actions.take(tmp_path / "odd.png")
    assert update["session"].seen is None and update["session"].picture and "odd.png" in update["banner"]
    assert update["view"] is None and update["result"] is None and "cannot be shown" in update["hint"]
    if not isinstance(error, MemoryError | RuntimeError):
        with pytest.raises(sightline.InvalidInput, match="not a picture"):
            to_rgb(picture())


def test_a_picture_that_was_swept_takes_the_one_before_away(tmp_path: Path) -> None:
    update = actions.take(tmp_path / "gone.png")
    assert update["session"].picture == b"" and update["view"] is None and update["result"] is None


def test_the_client_does_without_gradio(tmp_path: Path) -> None:
    code = (
        "import sys, sightline.cli as cli; assert not {'gradio', 'fastapi', 'uvicorn'} & set(sys.modules); sys.modules['gradio'] = None; "
    )
    code += f"sys.exit(cli.main(['web', '--port', '0', '--feedback', {str(tmp_path / 'f')!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install './client[web]'" in done.stderr and "Traceback" not in done.stderr

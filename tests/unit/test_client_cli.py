"""The `sightline` command against a server in this process that speaks Triton's protocol."""

from __future__ import annotations

import json

import grpc
import pytest
from client_fake import FakeTriton, Refuse, answer
from PIL import Image
from sightline.cli import main


@pytest.fixture
def server():
    fake = FakeTriton(answer)
    yield fake
    fake.stop()


def save(path, mark: bytes = b""):
    Image.new("L", (40, 30), 99).save(path)
    path.write_bytes(path.read_bytes() + mark)  # the mark behind the picture tells the fake server what to answer
    return str(path)


def test_inspect_prints_verdicts_and_draws(server, tmp_path, capsys):
    good, bad = save(tmp_path / "good.png"), save(tmp_path / "bad.png", b"bad")
    assert main(["inspect", good, "--url", server.url]) == 0
    assert main(["inspect", good, bad, "--url", server.url, "--out", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "NORMAL" in out and "ANOMALY" in out and "score 0.93  top left" in out and "Yes, there is a crack." in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bad_overlay.png", "good_overlay.png"]


def test_two_pictures_of_one_name_have_two_overlays(server, tmp_path):
    (tmp_path / "a").mkdir()
    images = [save(tmp_path / "a" / "x.png"), save(tmp_path / "x.png")]
    assert main(["inspect", *images, "--url", server.url, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "x_overlay.png").exists() and (tmp_path / "x_2_overlay.png").exists()


def test_what_was_not_inspected_is_exit_code_2_and_no_verdict(server, tmp_path, capsys):
    images = [save(tmp_path / "bad.png", b"bad"), save(tmp_path / "c.png", b"broken"), str(tmp_path / "absent.png")]
    assert main(["inspect", *images, "--json", "--url", server.url]) == 2
    first, *others = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["verdict"] == "anomaly" and first["image"] == images[0] and first["schema"] == "sightline/1"
    assert all("verdict" not in line and line["error"]["type"] == "InvalidInput" for line in others) and len(others) == 2


def test_inspect_streams(server, tmp_path, capsys):
    bad = save(tmp_path / "bad.png", b"bad")
    assert main(["inspect", bad, "--stream", "--url", server.url]) == 1
    out = capsys.readouterr().out
    assert out.index("ANOMALY") < out.index("Yes, there is a crack.")
    assert main(["inspect", bad, "--stream", "--json", "--url", server.url]) == 1
    assert json.loads(capsys.readouterr().out)["text"] == "Yes, there is a crack."


def test_no_server_is_exit_code_2_and_one_line(tmp_path, capsys):
    assert main(["inspect", save(tmp_path / "x.png"), "--url", "127.0.0.1:1"]) == 2
    assert "Unreachable: no answer from 127.0.0.1:1" in capsys.readouterr().out
    assert main(["products", "--url", "127.0.0.1:1"]) == 2
    assert main(["batch", str(tmp_path), "--out", str(tmp_path / "o.jsonl"), "--url", "127.0.0.1:1"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["inspect"],
        ["inspect", "x", "--box", "1,2,3"],
        ["segment", "x", "--out", "y", "--point", "1,2"],
        ["batch", "x"],
        ["weeb"],
        ["web", "--port", "x"],
        ["batch", "x", "--out", "y", "--concurrency", "0"],
    ],
)
def test_wrong_use_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_batch_goes_on_where_it_stopped(server, tmp_path):
    folder, out = tmp_path / "pictures", tmp_path / "results" / "out.jsonl"
    folder.mkdir()
    save(folder / "a.png"), save(folder / "b.png", b"bad"), save(folder / "c.png", b"broken")
    (folder / "notes.txt").write_text("not a picture")
    command = ["batch", str(folder), "--out", str(out), "--url", server.url, "--concurrency", "2"]
    assert main(command) == 2 and len(server.calls) == 3
    assert [line.get("verdict") for line in sorted(lines(out), key=lambda line: line["image"])] == ["normal", "anomaly", None]
    save(folder / "c.png")
    with out.open("a") as torn:
        torn.write('{"image": "torn')
    assert main(command) == 1 and len(server.calls) == 4
    save(folder / "a.png", b"bad")
    assert main(command) == 1 and len(server.calls) == 5
    assert main(command) == 1 and len(server.calls) == 5
    assert main([*command, "--prompt", "Where?"]) == 1 and len(server.calls) == 8
    assert len(lines(out)) == 3 and all("error" not in line for line in lines(out))


def test_batch_waits_for_a_full_queue(tmp_path):
    refusals = iter([True, True, False])

    def busy(call):
        if next(refusals):
            raise Refuse(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: queue full: 64 requests are in flight, try again later")
        yield from answer(call)

    fake = FakeTriton(busy)
    save(tmp_path / "a.png")
    assert main(["batch", str(tmp_path), "--out", str(tmp_path / "o.jsonl"), "--url", fake.url]) == 0
    assert len(fake.calls) == 3
    fake.stop()


def test_products_commands(server, tmp_path, capsys):
    good = save(tmp_path / "good.png")
    assert main(["enroll", "cell", good, good, "--description", "A cell.", "--url", server.url]) == 0
    assert main(["products", "--url", server.url]) == 0
    assert main(["products", "--remove", "cell", "--url", server.url]) == 0
    assert len(server.calls[0].inputs["IMAGES"]) == 2 and "cell" in capsys.readouterr().out


def test_chat_remembers(server, tmp_path, monkeypatch, capsys):
    questions = iter(["", "Why?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(questions))
    assert main(["chat", save(tmp_path / "bad.png", b"bad"), "--url", server.url]) == 0
    first, second = (call.inputs for call in server.calls)
    assert "PROMPT" not in first and "HISTORY" not in first and second["PROMPT"] == [b"Why?"]
    assert [turn["role"] for turn in json.loads(second["HISTORY"][0])] == ["user", "assistant"]
    assert "Yes, there is a crack." in capsys.readouterr().out


def test_json_of_answers_that_are_no_verdicts(server, tmp_path, monkeypatch, capsys):
    good = save(tmp_path / "good.png")
    assert main(["enroll", "cell", good, "--json", "--url", server.url]) == 0
    assert json.loads(capsys.readouterr().out)["products"] == [{"name": "cell", "images": 3}]
    questions = iter(["", "Why?", "/new", "Where?"])
    monkeypatch.setattr("builtins.input", lambda *_: next(questions, "/quit"))
    assert main(["chat", good, "--json", "--url", server.url]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["question"] for line in said] == ["", "Why?", "Where?"] and all(line["verdict"] == "normal" for line in said)
    assert len(json.loads(server.calls[2].inputs["HISTORY"][0])) == 2 and "HISTORY" not in server.calls[3].inputs


def test_reports_name_their_request(server, tmp_path, capsys):
    main(["inspect", save(tmp_path / "good.png"), save(tmp_path / "broken.png", b"broken"), "--json", "--url", server.url])
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert [good["request_id"], bad["error"]["request_id"]] == [call.id for call in server.calls]


def test_segment_writes_the_cut_out_and_the_mask(server, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    images = [save(tmp_path / "x.png"), save(tmp_path / "a" / "x.png"), str(tmp_path / "absent.png")]
    command = ["segment", *images, "--box", "1,2,30,20", "--point", "9,4,1", "--point", "35,25,0", "--out", str(tmp_path / "out")]
    assert main([*command, "--url", server.url, "--json"]) == 2
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["iou"], first["area"], first["box"], first["size"]) == (pytest.approx(0.98), 48, [4, 3, 20, 6], [30, 40])
    mask = Image.open(first["mask"])
    assert mask.size == (40, 30) and set(mask.tobytes()) == {0, 255} and mask.getbbox() == (4, 3, 20, 6)
    assert (tmp_path / "out" / "x_2_cutout.png").read_bytes() == b"\x89PNG" and second["cutout"].endswith("x_2_cutout.png")
    assert third["error"]["type"] == "InvalidInput"
    asked = server.calls[0].inputs
    assert asked["BOX"].tolist() == [1, 2, 30, 20] and asked["POINTS"].tolist() == [[9, 4, 1], [35, 25, 0]]
    assert main([*command[:2], *command[4:], "--url", server.url]) == 0
    assert "IoU 0.98" in capsys.readouterr().out

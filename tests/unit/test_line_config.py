"""`line.toml`, `sightline line` and `sightline watch`: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import sightline
from client_fake import FakeTriton, answer
from PIL import Image
from sightline.cli import main
from sightline.line import command, config
from sightline.line.cameras import Camera
from sightline.line.folder import Folder
from sightline.line.mqtt import Mqtt
from sightline.line.over_http import Snapshot

WHOLE = """
[line]
name = "cell-3"
state = "state"
takt = 2
timeout = 1.5
when_full = "wait"
[server]
url = "a:8001,b:8001"
hedge_after = 0.5
[server.tls]
root = "ca.pem"
name = "plant"
[inspect]
product = "cell"
reference = ["good.png"]
[source]
kind = "genicam"
producer = "/opt/maker.cti"
features = { TriggerMode = "On" }
triggered = true
[[sinks]]
kind = "jsonl"
path = "line.jsonl"
[[sinks]]
kind = "mqtt"
name = "plant"
host = "broker"
topic = "plant/cell-3"
qos = 1
"""


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "line.toml").write_text(WHOLE)
    read = config.read(tmp_path / "line.toml")
    assert (read.name, read.state, read.url) == ("cell-3", tmp_path / "state", "a:8001,b:8001")
    assert (read.pace.takt, read.pace.timeout, read.pace.when_full, read.pace.queue) == (2.0, 1.5, "wait", 8)
    assert read.policy.hedge_after == 0.5 and read.tls == sightline.Tls(root=tmp_path / "ca.pem", name="plant")
    assert read.options == {"product": "cell", "reference": [tmp_path / "good.png"]}
    assert read.source.producer == Path("/opt/maker.cti") and read.source.features == {"TriggerMode": "On"} and not read.source.paced
    assert list(read.sinks) == ["jsonl", "plant"] and isinstance(read.sinks["plant"], Mqtt) and read.sinks["plant"].qos == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("takt = 2", "tact = 2"), "[line] tact is unknown; expected takt"),
        (("takt = 2", 'takt = "2"'), "[line] takt: expected float, got '2'"),
        (("takt = 2", "takt = -1"), "[line] expected takt"),
        (('when_full = "wait"', 'when_full = "drop"'), "expected one of 'wait', 'spool'"),
        (("hedge_after = 0.5", "hedge = 1"), "[server] hedge is unknown"),
        (("hedge_after = 0.5", "attempts = 0"), "attempts"),
        (('product = "cell"', 'history = "x"'), "[inspect] history is unknown"),
        (('kind = "genicam"', 'kind = "drone"'), "kind 'drone': expected one of folder"),
        (('producer = "/opt/maker.cti"', ""), "genicam: producer is missing"),
        (("qos = 1", "qos = 0"), "mqtt: qos: expected 1 or 2"),
        (("qos = 1", "qos = true"), "mqtt: qos: expected int, got True"),
        (('name = "plant"\nhost', 'name = "jsonl"\nhost'), "two are named 'jsonl'"),
        (("[[sinks]]", "[[sink]]"), "sink is unknown"),
        (("[line]", "[line"), "line.toml: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], words: str) -> None:
    assert change[0] in WHOLE
    (tmp_path / "line.toml").write_text(WHOLE.replace(*change))
    assert main(["line", "--config", str(tmp_path / "line.toml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sightline: InvalidInput: ") and str(tmp_path / "line.toml") in said and words in said


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "paho.mqtt.client", None)
    monkeypatch.delitem(__import__("sys").modules, "sightline.line.mqtt")
    with pytest.raises(sightline.InvalidInput, match=r"\./client\[mqtt\]"):
        config.build({"source": {"kind": "folder", "path": "x"}, "sinks": [{"kind": "mqtt", "host": "h", "topic": "t"}]}, tmp_path)


def test_no_file_and_two_lines_on_one_state_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["line", "--config", str(tmp_path / "absent.toml")]) == 2
    (tmp_path / "line.toml").write_text('[source]\nkind = "folder"\npath = "."\n[[sinks]]\nkind = "jsonl"\npath = "out.jsonl"\n')
    from sightline.line import Store

    store = Store(tmp_path / "line-state", "line")
    assert main(["line", "--config", str(tmp_path / "line.toml")]) == 2
    store.close()
    assert "does another line run there?" in capsys.readouterr().err


def test_watch_knows_its_sources(tmp_path: Path) -> None:
    assert isinstance(command.source(str(tmp_path)), Folder) and isinstance(command.source("http://camera/x.jpg"), Snapshot)
    video = tmp_path / "line.mp4"
    video.touch()
    assert command.source("camera:3") == Camera("3") and command.source(str(video)) == Camera(str(video))
    assert command.source("rtsp://camera/1") == Camera("rtsp://camera/1")
    with pytest.raises(sightline.InvalidInput, match="incomming: no such folder or file"):
        command.source("incomming")


def test_watch_prints_and_keeps_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fake, out = FakeTriton(answer), tmp_path / "out"
    (tmp_path / "in").mkdir()
    for name, mark in (("a.png", b""), ("b.png", b"bad"), ("c.png", b"broken")):
        Image.new("L", (40, 30)).save(tmp_path / "in" / name)
        with (tmp_path / "in" / name).open("ab") as file:
            file.write(mark)

    def stopped(made: config.Config, *_: object) -> object:
        """As Ctrl-C would, once all three are in the file."""
        from sightline.line import assembled

        with assembled(made) as line:

            def wait() -> None:
                while not (out / "results.jsonl").exists() or len((out / "results.jsonl").read_text().splitlines()) < 3:
                    time.sleep(0.02)
                line.stop()

            threading.Thread(target=wait).start()
            return line.run()

    monkeypatch.setattr(command, "run", stopped)
    assert main(["watch", str(tmp_path / "in"), "--out", str(out), "--takt", "0", "--url", fake.url]) == 0
    fake.stop()
    said = capsys.readouterr()
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {line["name"]: line["outcome"] for line in lines} == {"a.png": "normal", "b.png": "anomaly", "c.png": "not_inspected"}
    assert all(word in said.out for word in ("✓ NORMAL", "✗ ANOMALY", "! NOT INSPECTED", "Yes, there is a crack."))
    assert "3 parts: 1 normal, 1 anomalous, 1 not inspected" in said.err and len(list((out / "overlays").iterdir())) == 2

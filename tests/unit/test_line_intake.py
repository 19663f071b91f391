"""How parts begin: takts that pass during a slow take, and sources whose library raises what it likes."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sightline
from client_fake import FakeTriton, answer
from line_fake import Memory, check_history
from sightline.line import EndOfSource, Line, Pace, Record, Shot, SourceError, Store, config
from test_line_sources import camera_server

TAKT_S = 0.1


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    fake = FakeTriton(answer)
    yield fake
    fake.stop()


@dataclass
class Scripted:
    """A camera that does one thing after the other: a take, an opening, a closing are each a function of the script."""

    takes: list[Callable[[], Shot]]
    paced: bool = True
    opens: Iterator[Callable[[], None]] = field(default_factory=lambda: iter(()))
    opened: int = 0

    def open(self) -> None:
        self.opened += 1
        next(self.opens, lambda: None)()

    def take(self) -> Shot:
        if not self.takes:
            raise EndOfSource
        return self.takes.pop(0)()

    def close(self) -> None:
        raise RuntimeError("the driver is gone")


def good() -> Shot:
    return Shot(b"good", "good")


def slow() -> Shot:
    time.sleep(3.4 * TAKT_S)
    return Shot(b"good", "slow")


def raises(error: Exception) -> Callable[[], Shot]:
    def take() -> Shot:
        raise error

    return take


def run(server: FakeTriton, folder: Path, source: Scripted, **pace: object) -> tuple[list[Record], object]:
    sink, store = Memory(), Store(folder, "cell")
    with sightline.Client(server.url) as client:
        stats = Line("cell", client, source, {"memory": sink}, store, Pace(TAKT_S, 5, **pace)).run()
    store.close()
    check_history(sink.got)
    return sink.got, stats


def test_each_takt_that_passes_during_a_slow_take_is_a_part(server: FakeTriton, tmp_path: Path) -> None:
    got, stats = run(server, tmp_path, Scripted([good, slow, good]))
    names = [record.name for record in got]
    lost = [record for record in got if not record.name]
    after = names.index("slow") + 1
    assert names[after : after + 3] == [""] * 3 and names[-1] == "good" and stats.late == stats.unseen == len(lost)
    assert {record.outcome for record in lost} == {"not_inspected"} and all("no picture was taken" in r.error["message"] for r in lost)


def test_a_camera_that_hangs_and_fails_loses_no_part_either(server: FakeTriton, tmp_path: Path) -> None:
    def hangs() -> Shot:
        time.sleep(2.2 * TAKT_S)
        raise SourceError("no picture within 2 takts")

    got, stats = run(server, tmp_path, Scripted([good, hangs, good]))
    assert [record.name for record in got][:4] == ["good", "", "", ""] and stats.unseen == stats.late + 1 >= 3


@pytest.mark.parametrize(("paced", "when_full"), [(False, "spool"), (True, "wait")])
def test_pictures_that_wait_for_the_line_miss_nothing(server: FakeTriton, tmp_path: Path, paced: bool, when_full: str) -> None:
    got, stats = run(server, tmp_path, Scripted([good, slow, good], paced), when_full=when_full)
    assert [record.name for record in got] == ["good", "slow", "good"] and stats.unseen == 0 and bool(stats.late) == paced


def test_the_takt_begins_when_the_camera_is_open(server: FakeTriton, tmp_path: Path) -> None:
    source = Scripted([good], opens=iter([lambda: time.sleep(3.4 * TAKT_S)]))
    got, _ = run(server, tmp_path, source)
    assert got[0].name == "good" and source.opened == 1


@pytest.mark.parametrize("error", [http.client.IncompleteRead(b"half"), ValueError("cannot reshape"), KeyError("driver")])
def test_whatever_a_source_raises_the_line_goes_on(server: FakeTriton, tmp_path: Path, error: Exception) -> None:
    source = Scripted([good, raises(error), good])
    got, stats = run(server, tmp_path, source)
    parts = [record for record in got if not (record.error and "busy with the part before" in record.error["message"])]
    assert [record.outcome for record in parts] == ["normal", "not_inspected", "normal"] and source.opened == 2
    assert f"{type(error).__name__}: " in parts[1].error["message"]


def test_a_source_that_cannot_be_opened_at_first_is_opened_later(server: FakeTriton, tmp_path: Path) -> None:
    source = Scripted([good], opens=itertools.chain([raises(OSError("busy"))] * 2))
    got, _ = run(server, tmp_path, source)
    assert "OSError: busy" in got[0].error["message"] and got[-1].name == "good" and source.opened == 3


def test_a_snapshot_that_breaks_off_is_a_source_error() -> None:
    with camera_server([b"half of it"], length=100) as url:
        source = config.made_source({"kind": "snapshot", "url": url}, Path())
        source.open()
        with pytest.raises(SourceError, match="IncompleteRead"):
            source.take()


def test_a_camera_without_its_library_is_no_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Told when the file is read, not by a fault of the running line."""
    monkeypatch.setitem(__import__("sys").modules, "harvesters.core", None)
    monkeypatch.delitem(__import__("sys").modules, "sightline.line.genicam", raising=False)
    with pytest.raises(sightline.InvalidInput, match=r"'genicam' needs harvesters.core: pip install '\./client\[genicam\]'"):
        config.made_source({"kind": "genicam", "producer": "maker.cti"}, tmp_path)

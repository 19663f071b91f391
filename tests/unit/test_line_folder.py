"""A folder whose files are still being written, stay empty, cannot be read, or are the line's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import sightline
from client_fake import FakeTriton, answer
from line_fake import Memory
from PIL import Image
from sightline.line import EndOfSource, Shot, Store, assembled, folder
from sightline.line.config import Config
from sightline.line.folder import Folder
from sightline.line.jsonl import Jsonl
from sightline.line.runner import Pace
from sightline.policy import Policy

SETTLE_S = 0.1


def until_ended(source: Folder) -> list[Shot]:
    shots: list[Shot] = []
    try:
        while True:
            if shot := source.take():
                shots.append(shot)
            time.sleep(0.005)
    except EndOfSource:
        return shots


def test_a_file_is_taken_when_it_has_not_changed_for_a_while(tmp_path: Path) -> None:
    path, source = tmp_path / "a.png", Folder(tmp_path, settle=0.5)
    for number in range(20):  # written anew all the time, and no byte longer
        written = time.monotonic()
        path.write_bytes(b"%09d" % number)
        os.utime(path, ns=(number, number))  # a clock of its own
        assert source.take() is None and source.take() is None
    shots: list[Shot] = []
    while not shots:
        shots += filter(None, [source.take()])
    assert time.monotonic() - written >= 0.5 and shots[0].picture == b"%09d" % 19


def test_a_file_that_stays_empty_is_a_part_without_a_picture(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "whole.png").write_bytes(b"whole")
    (tmp_path / "folder.png").mkdir()
    shots = until_ended(Folder(tmp_path, once=True, settle=0.02))
    assert [(shot.name, shot.picture) for shot in shots] == [("whole.png", b"whole"), ("empty.png", b"")]


def test_an_empty_file_that_is_filled_later_is_taken_whole(tmp_path: Path) -> None:
    source = Folder(tmp_path, once=True, settle=SETTLE_S)
    (tmp_path / "a.png").touch()
    end = time.monotonic() + 3 * SETTLE_S
    while time.monotonic() < end:
        assert source.take() is None
    (tmp_path / "a.png").write_bytes(b"whole")
    assert [shot.picture for shot in until_ended(source)] == [b"whole"]


def test_a_file_that_cannot_be_read_is_a_part_and_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("locked.png", "open.png"):
        (tmp_path / name).write_bytes(b"content")
    monkeypatch.setattr(folder, "_content", lambda path: b"" if path.name == "locked.png" else path.read_bytes())
    taken: set[str] = set()
    source = Folder(tmp_path, "delete", once=True, settle=0.02, known=taken.__contains__)
    shots = []
    with pytest.raises(EndOfSource):
        while True:
            if shot := source.take():
                taken.add(shot.key)
                shots.append((shot.name, shot.picture, shot.removed))
            time.sleep(0.005)
    assert sorted(shots) == [("locked.png", b"", False), ("open.png", b"content", True)]
    assert [path.name for path in tmp_path.iterdir()] == ["locked.png"]


def line_of(source: Folder, out: Path, url: str) -> Config:
    sinks = {"jsonl": Jsonl(out / "results.jsonl", out / "overlays"), "memory": Memory()}
    return Config("watch", out / "state", Pace(0.0, 5), url, None, Policy(), {}, source, sinks)


def test_what_the_line_draws_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sightline watch . --out results`: run twice, so that the second finds what the first has drawn."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (40, 30)).save("part.png")
    fake = FakeTriton(answer)
    for _ in range(2):
        made = line_of(Folder(Path("."), once=True, settle=0.02), Path("results"), fake.url)
        with assembled(made) as line:
            line.run()
    fake.stop()
    assert list(Path("results/overlays").iterdir()) and len(Path("results/results.jsonl").read_text().splitlines()) == 1


def test_overlays_in_the_source_itself_are_refused_and_a_state_around_it_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    made = line_of(Folder(tmp_path / "overlays"), tmp_path, "h:1")
    with pytest.raises(sightline.InvalidInput, match="would be a new part"), assembled(made):
        pass
    (tmp_path / "a.png").write_bytes(b"a")
    source = Folder(tmp_path, once=True, settle=0, exclude=(tmp_path, tmp_path.parent))
    assert [shot.name for shot in until_ended(source)] == ["a.png"]


def test_a_picture_that_its_folder_deletes_is_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    store, said = Store(tmp_path, "cell"), []
    store._db.set_trace_callback(said.append)
    store.accept(Shot(b"x", "kept", "1"))
    assert not synced and "PRAGMA synchronous=FULL" not in said
    part = store.accept(Shot(b"x", "deleted", "2", removed=True))
    assert synced == [str(part.path), str(part.path.parent)] and "PRAGMA synchronous=FULL" in said
    store.close()

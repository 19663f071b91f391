"""Folder, HTTP snapshot and video as sources; the JSONL file as a sink; none of them needs a server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from client_fake import crack, report
from PIL import Image
from sightline.line import EndOfSource, Record, SourceError, Store
from sightline.line.cameras import Camera
from sightline.line.folder import Folder
from sightline.line.jsonl import Jsonl
from sightline.line.over_http import Snapshot


def taken(folder: Folder) -> list[str]:
    return [shot.name for shot in iter(folder.take, None)]


def write(path: Path, content: bytes, seconds: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (1_000_000 + seconds, 1_000_000 + seconds))


def test_a_folder_gives_each_whole_file_once_and_oldest_first(tmp_path: Path) -> None:
    write(tmp_path / "b.png", b"b", 1), write(tmp_path / "deep" / "a.jpg", b"a", 2), write(tmp_path / "notes.txt", b"x")
    folder = Folder(tmp_path, settle=0)
    folder.open()
    assert folder.take() is None  # nothing is known to be whole at the first look
    assert taken(folder) == ["b.png", "deep/a.jpg"]
    write(tmp_path / "c.png", b"c", 3)
    assert folder.take() is None
    write(tmp_path / "c.png", b"more of c", 4)
    assert folder.take() is None
    assert [(shot.name, shot.picture) for shot in iter(folder.take, None)] == [("c.png", b"more of c")]
    write(tmp_path / "c.png", b"more of C", 5)
    folder.take()
    assert taken(folder) == ["c.png"]
    write(tmp_path / "d.png", b"d", 6), write(tmp_path / "e.png", b"e", 7)
    folder.take()
    assert folder.take().name == "d.png"
    write(tmp_path / "e.png", b"half of ", 8)  # between the look and its turn
    assert folder.take() is None and folder.take() is None and folder.take().picture == b"half of "
    with pytest.raises(SourceError):
        Folder(tmp_path / "absent").open()


def test_a_folder_is_not_taken_again_after_a_restart_and_may_be_emptied(tmp_path: Path) -> None:
    pictures = tmp_path / "in"
    for number in range(3):
        write(pictures / f"{number}.png", b"x", number)
    store = Store(tmp_path / "state", "cell")
    first = Folder(pictures, settle=0, known=store.knows)
    first.take()
    store.accept(first.take())
    store.close()
    store = Store(tmp_path / "state", "cell")
    second = Folder(pictures, "delete", settle=0, known=store.knows)
    second.take()
    store.accept(second.take())
    shot = second.take()
    assert shot.name == "2.png" and sorted(path.name for path in pictures.iterdir()) == ["0.png", "2.png"]
    second.close()
    assert (pictures / "2.png").exists()  # it was not taken in
    store.close()


def test_a_folder_that_is_taken_once_ends(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.png", b"x", number)
    folder = Folder(tmp_path, once=True, settle=0, known=lambda key: key.startswith("1.png"))  # of an earlier run
    folder.open()
    assert folder.take() is None  # the first look
    names: list[str] = []
    with pytest.raises(EndOfSource):
        while True:
            if shot := folder.take():
                names.append(shot.name)
    assert names == ["0.png", "2.png"]


@contextlib.contextmanager
def camera_server(answers: list[bytes | None], length: int | None = None) -> Iterator[str]:
    """`length`: what the header says about each."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            content = answers.pop(0)
            self.send_response(200 if content is not None else 503)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/snapshot.jpg"
    finally:
        server.shutdown()
        server.server_close()


def test_a_snapshot_is_a_picture_or_an_error() -> None:
    with camera_server([b"one", None, b"", b"two"]) as url:
        source = Snapshot(url)
        source.open()
        assert source.take().picture == b"one"
        for _ in range(2):
            with pytest.raises(SourceError, match="snapshot.jpg"):
                source.take()
        assert (source.take().picture, source.paced) == (b"two", True)
    with pytest.raises(SourceError):
        source.take()


def test_a_video_file_is_taken_frame_by_frame(tmp_path: Path) -> None:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), (number * 40, 0, 0), np.uint8))
    writer.release()
    for every, jpeg, count in ((1, 0, 6), (2, 90, 3)):
        source = Camera(str(path), every=every, jpeg=jpeg)
        source.open()
        shots = []
        with pytest.raises(EndOfSource):
            while True:
                shots.append(source.take())
        source.close()
        images = [Image.open(io.BytesIO(shot.picture)) for shot in shots]
        assert len(images) == count and {image.format for image in images} == {"JPEG" if jpeg else "PNG"}
        blue = [image.getpixel((9, 9))[2] for image in images]
        assert blue == pytest.approx([number * 40 for number in range(every - 1, 6, every)], abs=12)
    with pytest.raises(SourceError, match="cannot be opened"):
        Camera(str(tmp_path / "absent.avi")).open()


def record(seq: int, **changes: object) -> Record:
    whole = Record(seq, "cell", seq, "deep/pärt 1.png", 0.0, "anomaly", False, report((crack(),)), None, "first")
    return replace(whole, **changes)


def test_jsonl_holds_each_record_once_also_after_a_torn_line(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("L", (40, 30), 99).save(picture, "PNG")
    path = tmp_path / "out" / "line.jsonl"
    for _ in range(2):
        sink = Jsonl(path, tmp_path / "overlays")
        sink.open()
        for seq in (1, 2, 3):
            sink.deliver(record(seq), picture.getvalue)
        sink.close()
        with path.open("ab") as file:
            file.write(b'{"seq": 4, "torn')
    sink.open()
    sink.deliver(record(4, outcome="not_inspected", report=None, error={"type": "Timeout"}), lambda: None)
    sink.close()
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    sink.open()
    sink.deliver(record(1, history="second"), picture.getvalue)  # a new state folder: another part 1
    sink.close()
    names = sorted(path.name for path in (tmp_path / "overlays").iterdir())
    assert names == ["000000001_p_rt_1_first.png", "000000001_p_rt_1_second.png", *(f"00000000{n}_p_rt_1_first.png" for n in (2, 3))]


def test_jsonl_finds_the_last_of_many_long_lines(tmp_path: Path) -> None:
    sink = Jsonl(tmp_path / "line.jsonl")
    sink.open()
    sink.deliver(record(1, name="x" * 200_000), lambda: None)
    sink.deliver(record(2, name="y" * 200_000), lambda: None)
    sink.close()
    sink.open()
    sink.deliver(record(2), lambda: None)
    sink.close()
    assert [json.loads(line)["seq"] for line in (tmp_path / "line.jsonl").read_text().splitlines()] == [1, 2]

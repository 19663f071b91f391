"""OpenCV's cameras and streams show the part that is there now; a file ends where it ends. With a capture made of Python."""

from __future__ import annotations

import io
import threading
import time

import cv2
import numpy as np
import pytest
from PIL import Image
from sightline.line import EndOfSource, Shot, SourceError
from sightline.line.cameras import Camera
from waiting import within

FRAME_S = 0.01


class Stream:
    """A network stream: frames come by themselves, `buffered` of them wait for who does not take them. `last`: no more after it."""

    def __init__(self, buffered: int = 50, last: int = 250) -> None:
        self.begun, self.given, self.buffered, self.last = time.monotonic(), 0, buffered, last
        self.released, self.hangs, self.error = threading.Event(), threading.Event(), False

    def now(self) -> int:
        return int((time.monotonic() - self.begun) / FRAME_S)

    def isOpened(self) -> bool:  # noqa: N802 - the library's name
        return True

    def get(self, _: int) -> float:
        return -1.0

    def grab(self) -> bool:
        if self.error:
            raise cv2.error("the stream is damaged")
        self.given = max(self.given + 1, self.now() - self.buffered)
        while (self.now() < self.given or self.hangs.is_set()) and not self.released.is_set():
            time.sleep(0.001)
        return self.given < self.last

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((4, 4, 3), self.given, np.uint8)

    def read(self) -> tuple[bool, np.ndarray | None]:
        return self.retrieve() if self.grab() else (False, None)

    def release(self) -> None:
        self.released.set()


def opened(monkeypatch: pytest.MonkeyPatch, capture: object, device: str = "rtsp://camera/1", **options: float) -> Camera:
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: capture)
    camera = Camera(device, **options)
    camera.open()
    return camera


def number(shot: Shot) -> int:
    return int(Image.open(io.BytesIO(shot.picture)).getpixel((0, 0))[0])


def test_a_stream_gives_no_picture_of_an_earlier_part(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    camera = opened(monkeypatch, stream)
    for _ in range(3):
        time.sleep(20 * FRAME_S)
        before = stream.now()
        shot = camera.take()
        assert number(shot) >= before and shot.name.startswith("frame-") and camera.paced
    camera.close()
    assert stream.released.is_set()


def test_a_stream_that_ends_hangs_or_breaks_is_a_source_error(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = opened(monkeypatch, Stream(last=1))
    with pytest.raises(SourceError, match="camera rtsp://camera/1: no picture"):
        camera.take()
    camera.close()
    hanging = Stream()
    hanging.hangs.set()
    camera = opened(monkeypatch, hanging, timeout=0.1)
    with pytest.raises(SourceError, match="no picture within 0.1 s"):
        camera.take()
    camera.close()
    hanging.released.set()
    broken = Stream()
    camera = opened(monkeypatch, broken)
    broken.error = True
    assert within(5, broken.released.is_set)
    with pytest.raises(SourceError, match="the stream is damaged"):
        camera.take()


class File:
    """A video file of which some frames cannot be read."""

    def __init__(self, damaged: dict[int, object]) -> None:
        self.damaged, self.at = damaged, 0

    def isOpened(self) -> bool:  # noqa: N802 - the library's name
        return True

    def get(self, name: int) -> float:
        return 5.0 if name == cv2.CAP_PROP_FRAME_COUNT else 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.at += 1
        if isinstance(wrong := self.damaged.get(self.at), Exception):
            raise wrong
        good = self.at <= 5 and wrong is None
        return good, np.full((4, 4, 3), self.at, np.uint8) if good else None

    def release(self) -> None:
        pass


def test_a_damaged_frame_is_a_part_without_a_picture_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = opened(monkeypatch, File({2: "unreadable", 4: cv2.error("damaged")}), "line.mp4")
    shots = [camera.take() for _ in range(5)]
    assert [bool(shot.picture) for shot in shots] == [True, False, True, False, True] and not camera.paced
    assert [shot.name for shot in shots] == [f"frame-{number:06d}" for number in range(1, 6)]
    with pytest.raises(EndOfSource):
        camera.take()

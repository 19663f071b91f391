"""USB cameras, network streams and video files through OpenCV (extra `camera`)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

import cv2

from .parts import EndOfSource, Shot, SourceError


@dataclass
class Camera:
    """
    Args:
        device: a camera's number, the path of a video file, or a stream's address (rtsp://...).
        width, height: asked of a camera, where given.
        every: of a video file, each so-manyth frame.
        jpeg: quality of the picture that is sent, 1 to 100; 0: PNG, pixel for pixel.
        timeout: seconds to wait for a camera's picture.
    """

    device: str = "0"
    width: int | None = None
    height: int | None = None
    every: int = 1
    jpeg: int = 0
    timeout: float = 2.0

    def __post_init__(self) -> None:
        self.paced = True  # until it is known to be a file, whose frames wait for the line
        self._frames: Live | Recorded | None = None
        self._count = 0

    def open(self) -> None:
        capture = cv2.VideoCapture(int(self.device) if self.device.isdigit() else self.device)
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"camera {self.device}: cannot be opened")
        for name, value in {cv2.CAP_PROP_FRAME_WIDTH: self.width, cv2.CAP_PROP_FRAME_HEIGHT: self.height}.items():
            if value is not None:
                capture.set(name, value)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # of a file; a camera does not know how many there will be
        self.paced = count <= 0
        self._frames = Live(capture, self.timeout) if self.paced else Recorded(capture, count, self.every)

    def take(self) -> Shot:
        """Of a file, a frame that cannot be read is a part too, without a picture."""
        assert self._frames is not None
        try:
            frame = self._frames.take()
        except SourceError as error:
            raise SourceError(f"camera {self.device}: {error}") from error
        self._count += 1
        return Shot(b"" if frame is None else encoded(frame, self.jpeg), f"frame-{self._count:06d}")

    def close(self) -> None:
        frames, self._frames = self._frames, None
        if frames is not None:
            frames.close()


class Live:
    """Grabs a camera's frames as they come, in a thread: those that nobody asked for show earlier parts and must not wait anywhere.

    Not every backend lets its buffer be made small, and a network stream has more than one.
    """

    def __init__(self, capture: Any, timeout: float) -> None:
        self._capture, self._timeout = capture, timeout
        self._asked: Queue[Any] | None = None
        self._reason = "no picture"
        self._ended, self._failed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    def take(self) -> Any:
        """A frame whose grabbing began after the call."""
        asked: Queue[Any] = Queue()
        self._asked = asked
        try:
            frame = None if self._failed.is_set() else asked.get(timeout=self._timeout)
        except Empty:
            raise SourceError(f"no picture within {self._timeout} s") from None
        finally:
            self._asked = None
        if frame is None:
            raise SourceError(self._reason)
        return frame

    def close(self) -> None:
        """The thread releases the camera; one that hangs in its driver does so when it comes back."""
        self._ended.set()
        self._thread.join(self._timeout)

    def _run(self) -> None:
        try:
            while not self._ended.is_set() and self._pass_on():
                pass
        except cv2.error as error:
            self._reason = str(error)
        finally:
            self._failed.set()
            if asked := self._asked:
                asked.put(None)
            self._capture.release()

    def _pass_on(self) -> bool:
        """The next frame, to whom asked before it was grabbed. Whether there was one."""
        asked = self._asked
        good = self._capture.grab()
        if not good or asked is None:
            return bool(good)
        good, frame = self._capture.retrieve()
        if good:
            asked.put(frame)
        return bool(good)


class Recorded:
    """A video file's frames, each `every`th."""

    def __init__(self, capture: Any, count: int, every: int) -> None:
        self._capture, self._left, self._every = capture, count, every

    def take(self) -> Any | None:
        """None: there is a frame, and it cannot be read."""
        for _ in range(self._every - 1):
            self._capture.grab()
        self._left -= self._every
        try:
            good, frame = self._capture.read()
        except cv2.error:  # a damaged place in the file
            good, frame = False, None
        if not good and self._left < 0:
            raise EndOfSource
        return frame if good else None

    def close(self) -> None:
        self._capture.release()


def encoded(frame: Any, jpeg: int) -> bytes:
    """A frame as OpenCV has it (BGR), as JPEG of that quality or PNG; nothing where it has no size that they can hold."""
    kind, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, jpeg]) if jpeg else (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])
    good, data = cv2.imencode(kind, frame, options)
    return bytes(data) if good else b""

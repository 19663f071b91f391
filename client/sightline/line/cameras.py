"""USB cameras, network streams and video files through OpenCV (extra `camera`)."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    device: str = "0"
    width: int | None = None
    height: int | None = None
    every: int = 1
    jpeg: int = 0
    paced = True

    def __post_init__(self) -> None:
        self._capture: Any = None
        self._frames = 0

    def open(self) -> None:
        capture = cv2.VideoCapture(int(self.device) if self.device.isdigit() else self.device)
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"camera {self.device}: cannot be opened")
        wanted = {cv2.CAP_PROP_FRAME_WIDTH: self.width, cv2.CAP_PROP_FRAME_HEIGHT: self.height, cv2.CAP_PROP_BUFFERSIZE: 1}
        for name, value in wanted.items():
            if value is not None:
                capture.set(name, value)
        self._ends = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # a file; a camera does not know how many there will be
        self._capture = capture

    def take(self) -> Shot:
        for _ in range(self.every - 1 if self._ends else 1):  # a camera's buffer may hold the picture of an earlier part
            self._capture.grab()
        good, frame = self._capture.read()
        if not good:
            if self._ends:
                raise EndOfSource
            raise SourceError(f"camera {self.device}: no picture")
        self._frames += 1
        return Shot(encoded(frame, self.jpeg), f"frame-{self._frames:06d}")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def encoded(frame: Any, jpeg: int) -> bytes:
    """A frame as OpenCV has it (BGR), as JPEG of that quality or PNG."""
    kind, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, jpeg]) if jpeg else (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])
    good, data = cv2.imencode(kind, frame, options)
    if not good:
        raise SourceError("the frame cannot be encoded")
    return bytes(data)

"""Industrial cameras (GigE Vision, USB3 Vision) through harvesters and a GenTL producer of the camera's maker (extra `genicam`)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harvesters.core import Harvester

from ..pictures import encode
from .parts import Shot, SourceError

CHANNELS = {"Mono8": 1, "Mono10": 1, "Mono12": 1, "Mono14": 1, "Mono16": 1, "RGB8": 3, "BGR8": 3, "RGB8Packed": 3, "BGR8Packed": 3}
NO_TIME_S = 0.001  # to harvesters 0 means for ever
BITS = {"Mono10": 10, "Mono12": 12, "Mono14": 14}


@dataclass
class GenICam:
    """
    Args:
        producer: the GenTL producer, a .cti file that comes with the camera's driver.
        serial: which camera; without it the first one.
        features: of the camera, set before it starts, for instance {TriggerMode = "On", TriggerSource = "Line1"}.
        timeout: seconds to wait for a picture.
        triggered: the camera is triggered by the line itself: no picture in time means no part, and the takt is only a limit.
    """

    producer: Path
    serial: str | None = None
    features: dict[str, Any] = field(default_factory=dict)
    timeout: float = 2.0
    triggered: bool = False

    def __post_init__(self) -> None:
        self.paced = not self.triggered
        self._harvester: Any = None
        self._camera: Any = None
        self._count = 0

    def open(self) -> None:
        self._harvester = Harvester()
        try:
            self._harvester.add_file(str(self.producer))
            self._harvester.update()
            self._camera = self._harvester.create({"serial_number": self.serial} if self.serial else 0)
            for name, value in self.features.items():
                getattr(self._camera.remote_device.node_map, name).value = value
            self._camera.start()
        except Exception as error:  # each producer has its own
            self.close()
            raise SourceError(f"camera {self.serial or 0}: {type(error).__name__}: {error}") from error

    def take(self) -> Shot | None:
        try:
            if not self.triggered:
                self._forget()
            buffer, in_time = self._fetch()
        except Exception as error:
            raise SourceError(f"camera {self.serial or 0}: {type(error).__name__}: {error}") from error
        if buffer is None and not self.triggered:
            raise SourceError(f"camera {self.serial or 0}: no picture within {self.timeout} s")
        if buffer is None and not in_time:
            return None
        if buffer is None:  # a part was there, its picture did not arrive whole: without one it is recorded as not inspected
            self._count += 1
            return Shot(b"", f"frame-{self._count:06d}")
        with buffer:  # it goes back to the camera's queue at the end
            component = buffer.payload.components[0]
            array = picture(component.data, component.height, component.width, component.data_format)
        self._count += 1
        return Shot(encode(array), f"frame-{self._count:06d}")

    def _forget(self) -> None:
        """Pictures that a running camera has put in its buffers since the last take show earlier parts."""
        for _ in range(self._camera.num_buffers):
            buffer = self._camera.try_fetch(timeout=NO_TIME_S)
            if buffer is None:
                break
            buffer.queue()

    def _fetch(self) -> tuple[Any, bool]:
        """The next whole picture or None, and whether there is time left: harvesters gives None for an incomplete one at once."""
        end = time.monotonic() + self.timeout
        while True:
            buffer = self._camera.try_fetch(timeout=max(NO_TIME_S, end - time.monotonic()))
            in_time = time.monotonic() < end
            if buffer is not None or self.triggered or not in_time:
                return buffer, in_time

    def close(self) -> None:
        for thing, words in ((self._camera, ("stop", "destroy")), (self._harvester, ("reset",))):
            for word in words if thing is not None else ():
                getattr(thing, word)()
        self._camera = self._harvester = None


def picture(data: Any, height: int, width: int, name: str) -> Any:
    """A component's pixels as an array that can be sent: [H, W] or [H, W, 3] RGB, 8 or 16 bit, the darkest 0, the brightest full."""
    if name not in CHANNELS:
        raise SourceError(f"pixel format {name}: expected one of {', '.join(CHANNELS)}; set PixelFormat among the features")
    shape = (height, width) if CHANNELS[name] == 1 else (height, width, CHANNELS[name])
    array = np.array(data).reshape(shape)  # a copy: the buffer goes back to the camera
    if name in BITS:
        array = array.astype(np.uint16) << (16 - BITS[name])
    return array[..., ::-1] if name.startswith("BGR") else array

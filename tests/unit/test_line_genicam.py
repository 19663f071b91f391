"""The GenICam source through the real harvesters and GenApi, with a GenTL producer of our own that simulates a camera."""

from __future__ import annotations

import io
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from client_fake import FakeTriton, answer
from PIL import Image
from sightline.line import Shot, SourceError, config
from sightline.line.genicam import GenICam

COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="the simulated camera is C: needs a compiler")
FRAME_S = 0.02
SCENE = (np.arange(16)[None] + 10 * np.arange(8)[:, None]).astype(np.uint8)


@pytest.fixture(scope="module")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gentl") / "simulated.cti"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", made, Path(__file__).with_name("gentl_camera.c")], check=True)
    return made


@pytest.fixture
def camera(producer: Path) -> Iterator[object]:
    """`camera(...)`: an open source; the one before is closed. A camera keeps its features, so the usual ones are set each time."""
    opened: list[GenICam] = []

    def made(features: dict[str, object] | None = None, **options: object) -> GenICam:
        for source in opened:
            source.close()
        usual = {"Width": 16, "PixelFormat": "Mono8", "TriggerMode": "Off"}
        opened.append(GenICam(producer, features={**usual, **(features or {})}, **options))
        opened[-1].open()
        return opened[-1]

    yield made
    for source in opened:
        source.close()


def pixels(shot: Shot) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shot.picture)))


def number(shot: Shot) -> int:
    """Of the camera's frame that is in the picture."""
    image = pixels(shot)
    assert np.array_equal(image - image[0, 0], SCENE)
    return int(image[0, 0])


def test_pictures_arrive_pixel_for_pixel(camera) -> None:
    source = camera(serial="17")
    first, second = source.take(), source.take()
    assert pixels(first).shape == (8, 16) and 0 < (number(second) - number(first)) % 256 < 128
    assert (first.name, second.name, source.paced) == ("frame-000001", "frame-000002", True)


def test_deep_and_coloured_pictures(camera) -> None:
    deep = pixels(camera({"PixelFormat": "Mono12", "Width": 20}).take()).astype(int)
    assert deep.shape == (8, 20) and not (deep % 256).any() and deep[0, 1] - deep[0, 0] == 256  # 12 bits of which 4 are 0, in 16
    for name, step in (("RGB8", 1), ("BGR8", -1)):  # the camera writes 0, 1, 2 ... into the colours of a row
        coloured = pixels(camera({"PixelFormat": name}).take()).astype(int)
        assert coloured.shape == (8, 16, 3) and (np.diff(coloured[0, 0]) == step).all()
    with pytest.raises(SourceError, match="BayerRG8: expected one of"):
        camera({"PixelFormat": "BayerRG8"}).take()


def test_a_picture_shows_the_part_that_is_there_now(camera) -> None:
    """A camera that runs by itself has filled its buffers with earlier parts by then."""
    source = camera()
    before = number(source.take())
    time.sleep(30 * FRAME_S)
    assert (number(source.take()) - before) % 256 >= 30


def test_the_line_triggers_the_camera(camera) -> None:
    source = camera({"TriggerMode": "On"}, triggered=True, timeout=0.2)
    trigger = source._camera.remote_device.node_map.get_node("TriggerSoftwareReg")
    assert source.take() is None and not source.paced
    for _ in range(3):
        trigger.value = 1
        assert source.take() is not None
    assert source.take() is None


def test_a_part_whose_picture_did_not_arrive_whole_is_still_a_part(camera) -> None:
    source = camera({"TriggerMode": "On", "Width": 14}, triggered=True, timeout=0.2)
    source._camera.remote_device.node_map.get_node("TriggerSoftwareReg").value = 1
    assert source.take() == Shot(b"", "frame-000001") and source.take() is None
    with pytest.raises(SourceError, match="no picture within 0.1 s"):
        camera({"Width": 14}, timeout=0.1).take()


def test_what_fails_is_a_source_error_and_it_opens_again(camera, producer: Path, tmp_path: Path) -> None:
    source = camera({"Width": 13}, timeout=0.2)
    with pytest.raises(SourceError, match="camera 0: IoException"):
        source.take()
    source.close()
    source.open()
    for wrong in (GenICam(producer, serial="18"), GenICam(producer, features={"Wdith": 3}), GenICam(tmp_path / "absent.cti")):
        with pytest.raises(SourceError, match="camera (0|18): "):
            wrong.open()


def test_a_line_with_a_camera(producer: Path, tmp_path: Path) -> None:
    """As its file describes it, from the sensor to the record."""
    from sightline.line import assembled

    fake = FakeTriton(answer)
    source = {"kind": "genicam", "producer": str(producer), "features": {"Width": 40, "Height": 30, "TriggerMode": "Off"}}
    sinks = [{"kind": "jsonl", "path": "out.jsonl"}]
    table = {"line": {"takt": 0.1}, "server": {"url": fake.url}, "source": source, "sinks": sinks}
    with assembled(config.build(table, tmp_path)) as line:
        stats = line.run(lambda stats: line.stop() if stats.taken >= 3 else None, every=0.1)
    fake.stop()
    assert stats.taken >= 3 and stats.normal == stats.taken - stats.late  # on a busy machine a takt may pass
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == stats.taken

"""What one started page has: its settings, connections by address, and the operators' feedback."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import Image

from ..client import Client
from ..feedback import Feedback
from ..tls import Tls
from .pictures import SMALLEST, opened

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Setup:
    """As the command line has it. `users`: inspections at a time; `samples`: a folder of pictures to try."""

    url: str = "localhost:8001"
    host: str = "127.0.0.1"
    port: int = 7860
    timeout: float = 60.0
    feedback: Path = Path("feedback")
    samples: Path | None = None
    users: int = 8
    tls: Tls | None = None

    @property
    def any_server(self) -> bool:
        """Whether a user may name another server: only on a page for this machine, or the page would be a way into its network."""
        return self.host in LOOPBACK


@dataclass(frozen=True)
class Sample:
    """A picture to try, and how it is shown."""

    path: Path
    seen: Image.Image = field(repr=False)


@dataclass(frozen=True)
class Plant:
    """Shared by all users of the page; what belongs to one of them is a `Session`."""

    setup: Setup
    samples: tuple[Sample, ...] = ()
    feedback: Feedback = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "feedback", Feedback(self.setup.feedback))

    def client(self, url: str) -> Client:
        asked = (url or "").strip() if self.setup.any_server else ""
        return _client(asked or self.setup.url, self.setup.timeout, self.setup.tls)


@lru_cache(maxsize=8)  # a client may be shared between threads; one that falls out ends with its last request
def _client(url: str, timeout: float, tls: Tls | None) -> Client:
    return Client(url, timeout=timeout, tls=tls)


def find_samples(folder: Path, most: int = 24) -> tuple[Sample, ...]:
    """The pictures in the folder that can be shown, by name."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    return tuple(islice(filter(None, map(_sample, paths)), most))


def _sample(path: Path) -> Sample | None:
    seen = opened(path.name, path.read_bytes()).seen
    if seen is None:
        return None
    seen.thumbnail((SMALLEST, SMALLEST))
    return Sample(path, seen)

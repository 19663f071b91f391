"""A real server, the page in a process of its own, and users with a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import sightline
from playwright.sync_api import Browser, sync_playwright
from server.conftest import tiny_server
from sightline_training.data import Cell, cells

from .chromium import chromium
from .user import User

SHOTS = Path(__file__).resolve().parents[2] / "build" / "web"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@dataclass(frozen=True)
class Web:
    """The started page. `witness`: what it connected to outside this machine, if anything."""

    address: str
    server: str
    feedback: Path
    witness: Path


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as `sightline-serve` starts it: with the response cache."""
    if url := request.config.getoption("--url"):
        yield url
        return
    with tiny_server(tmp_path_factory.mktemp("products")) as own:
        yield own.grpc


@pytest.fixture(scope="session")
def web(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    made = (folder / "samples", folder / "feedback", folder / "witness")
    made[0].mkdir()
    (folder / "tmp").mkdir()
    for cell in [*of("test", 1)[:2], *of("test", 0)[:2]]:
        (made[0] / Path(cell.name).name).symlink_to(cell.path)
    line = [sys.executable, str(Path(__file__).with_name("guarded.py")), str(made[2]), "web", "--url", address, "--port", "0"]
    line += ["--samples", str(made[0]), "--feedback", str(made[1])]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder / "tmp")}) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "the page did not start"
        yield Web(found[0], address, made[1], made[2])
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and not list((folder / "tmp").glob("sightline-web-*")), "its users' pictures go with the page"


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[sightline.Client]:
    """The same server without the page: what the page must show."""
    with sightline.Client(address) as client:
        yield client


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if (program := chromium()) is None:
        pytest.skip("no Chromium on this machine: install one, name it in $CHROMIUM, or on Debian run tests/web/chromium.py")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox of its own
        yield found
        found.close()


@pytest.fixture
def arrive(browser: Browser, web: Web) -> Iterator[Callable[[], User]]:
    """Makes users, each with cookies and storage of their own. Whatever they did, their browsers asked nobody but the page."""
    users: list[User] = []
    with ExitStack() as contexts:

        def one() -> User:
            context = browser.new_context(viewport={"width": 1400, "height": 1080})
            contexts.callback(context.close)
            users.append(User(context.new_page(), web.address, SHOTS))
            return users[-1]

        yield one
        for user in users:
            assert user.strangers() == [] and user.faults == []


@pytest.fixture
def user(arrive: Callable[[], User]) -> User:
    return arrive()


def of(part: str, probability: float) -> list[Cell]:
    """Cells of a part of the data that experts call surely defective (1) or surely good (0)."""
    return [cell for cell in cells(part) if cell.probability == probability]

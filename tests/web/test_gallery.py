"""The page that `sightline batch --html` writes, opened from disk in a real browser after two interruptions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sightline
from playwright.sync_api import Browser, Page, expect
from waiting import within

from .conftest import SHOTS, of

PICTURES = 40
UNREADABLE = "damaged.png"


@pytest.fixture(scope="module")
def gallery(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `in`, `out.jsonl` and `page.html`: real cells and a damaged file; Ctrl-C came after a quarter and after a half."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "in").mkdir()
    for cell in [*of("test", 1)[: PICTURES // 2], *of("test", 0)[: PICTURES // 2]]:
        (folder / "in" / cell.path.name).symlink_to(cell.path)
    (folder / "in" / UNREADABLE).write_bytes(b"this is no picture")
    out = folder / "out.jsonl"
    command = [sys.executable, "-m", "sightline", "batch", "in", "--out", "out.jsonl", "--html", "page.html", "--url", address]
    for share in (4, 2):
        running = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, preexec_fn=heard)
        assert within(120, lambda share=share: out.exists() and len(out.read_bytes().splitlines()) >= PICTURES // share)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130 and not (folder / "page.html").exists()
    assert subprocess.run(command, cwd=folder, stderr=subprocess.DEVNULL).returncode == 2  # one was not inspected
    return folder


def heard() -> None:
    """Ctrl-C, which a script's background job inherits as ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def page(browser: Browser, gallery: Path) -> Iterator[Page]:
    asked: list[str] = []
    page = browser.new_context(viewport={"width": 1400, "height": 1080}).new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto((gallery / "page.html").as_uri())
    yield page
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    page.context.close()


def test_every_picture_is_there_once(page: Page, gallery: Path) -> None:
    lines = [json.loads(line) for line in (gallery / "out.jsonl").read_text().splitlines()]
    names = Counter(Path(line["image"]).name for line in lines)
    assert len(names) == PICTURES + 1 and set(names.values()) <= {1}
    counts = {name: int(page.locator(f".counts .{name} b").inner_text()) for name in ("anomaly", "normal", "missing")}
    assert sum(counts.values()) == len(lines) and counts["missing"] == 1 and min(counts.values()) > 0
    assert page.locator("figure").count() == counts["anomaly"]
    assert UNREADABLE in page.locator("#not-inspected").inner_text() and "IMAGE" in page.locator("#not-inspected").inner_text()
    page.locator("#normal summary").click()
    assert page.locator("#normal tr").count() == counts["normal"]


def test_the_overlays_are_drawn_and_lead_to_their_pictures(page: Page, gallery: Path, client: sightline.Client) -> None:
    figures = page.locator("figure")
    for figure in figures.all():
        figure.scroll_into_view_if_needed()  # what is not seen is not decoded
        expect(figure.locator("img")).to_have_js_property("complete", True)
        assert figure.locator("img").evaluate("image => image.naturalWidth") > 0
    worst = figures.first
    target = str(worst.locator("a").get_attribute("href"))
    report = client.inspect(gallery / target)
    assert report.anomaly and f"score {report.score_text}" in worst.inner_text() and report.text in worst.inner_text()
    scores = [float(text.split()[2]) for text in figures.locator("b").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=SHOTS / "gallery.png")
    worst.locator("a").click()
    page.wait_for_url("**/" + target)
    assert page.locator("img").evaluate("image => image.naturalWidth") == 300

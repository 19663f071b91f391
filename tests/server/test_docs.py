"""Each page for users does what it says: its blocks are run in their order against the real server, in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pages
import pytest
import sightline
from conftest import Target

# What a reader has on disk at the end.
WRITTEN = {
    "quickstart.md": ["overlays/part_overlay.png", "results.jsonl", "results.csv", "results.html", "drawn.png"],
    "client.md": ["reports.jsonl", "results.html", "cut/part_cutout.png", "cut/part_mask.png"],
    "connections.md": [],
    "products.md": ["feedback/products/cell/0008.bin"],
    "line.md": ["line.jsonl", "watched/results.jsonl"],
    "own_sources.md": ["state/line.db"],
}
PICTURES = next(block for block in pages.blocks("quickstart.md") if block.language == "python")


@pytest.fixture
def clean(client: sightline.Client):
    yield
    for product in client.products()["products"]:
        if product["name"] == "cell":
            client.remove("cell")


@pytest.mark.parametrize("page", WRITTEN)
def test_what_the_page_says_works(page: str, server: Target, clean: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = pages.blocks(page)
    for block in blocks if PICTURES in blocks else [PICTURES, *blocks]:
        pages.run(block, tmp_path, server.grpc)
    assert any(block.language in ("python", "bash") for block in blocks)
    assert [name for name in WRITTEN[page] if not (tmp_path / name).stat().st_size] == []
    assert not any('"verdict":' not in line for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines())

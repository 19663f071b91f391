"""Two servers on one directory of products: both enrol the same name at once, again and again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sightline
from conftest import tiny_server
from sightline_training.data import cells

NORMAL = [cell.path for cell in cells("train") if cell.probability == 0][:6]
ROUNDS = 5


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outer") / "products"


@pytest.fixture(scope="module")
def two(volume: Path) -> Iterator[list[sightline.Client]]:
    with tiny_server(volume) as one, tiny_server(volume) as other:
        with sightline.Client(one.grpc) as first, sightline.Client(other.grpc) as second:
            yield [first, second]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_the_same_name_at_once(two, volume):
    with ThreadPoolExecutor(2) as pool:
        for count in range(1, 1 + ROUNDS):
            list(pool.map(lambda client, n=count: client.enroll("cell", NORMAL[: n % 3 + 1], description=f"round {n}"), two))
            told = [client.describe("cell")["product"] for client in two]
            assert told[0] == told[1] and told[0]["images"] == count % 3 + 1
    assert all(client.inspect(NORMAL[5], product="cell", max_tokens=1).experts[0].references == ROUNDS % 3 + 1 for client in two)
    recipe = json.loads((volume / "cell.json").read_text())
    assert names(volume) == [f"banks/{recipe['bank']}.npz", "cell.json"]


def test_removed_by_one_it_is_gone_for_the_other(two, volume):
    two[0].enroll("gone", NORMAL[:1])
    assert two[1].inspect(NORMAL[5], product="gone", max_tokens=1).experts
    two[0].remove("gone")
    with pytest.raises(sightline.NotInspected, match="gone"):
        two[1].inspect(NORMAL[5], product="gone", max_tokens=1)
    assert not [name for name in names(volume) if "gone" in name]


def test_no_name_leads_out_of_the_directory(two, volume):
    for name in ("../out", "..", "a/b", "/etc/x", ".hidden", "A", "é", "a\0b", "", "x" * 65):
        with pytest.raises(sightline.NotInspected, match="NAME"):
            two[0].enroll(name, NORMAL[:1])
    assert sorted(path.name for path in volume.parent.iterdir()) == ["products"]

"""The evaluation from a drawn data set to its tables, against the real server."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import sightline
from conftest import PROFILE, Target
from tritonclient.grpc import InferenceServerClient

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import answers  # noqa: E402
import datasets  # noqa: E402
import drawn  # noqa: E402
import evaluate  # noqa: E402
from harness import read_csv  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    drawn.write(out, amounts=drawn.Amounts(train=2, good=2, each=1), products=["plate"])
    return out


def test_from_pictures_to_tables(server: Target, client: sightline.Client, folder: Path, tmp_path: Path) -> None:
    options = ["--shots", "0", "2", "--seeds", "1", "--limit", "4", "--cases", "2"]
    assert evaluate.main([str(folder), "--url", server.grpc, "--out", str(tmp_path), *options]) == 0
    name = folder.name
    pictures = read_csv(tmp_path / f"{name}_pictures.csv")
    assert [row["shots"] for row in pictures] == ["0"] * 4 + ["2"] * 4
    for row in pictures:
        assert not row["error"] and (row["verdict"] == "anomaly") == (float(row["score"]) >= 0.5)
        assert row["text"].startswith("Yes" if row["verdict"] == "anomaly" else "No")
        assert bool(row["expert"]) == (row["shots"] == "2") and bool(row["mask_iou"]) == (row["defective"] == "1")
    lines = {(row["shots"], row["figure"]): float(row["mean"]) for row in read_csv(tmp_path / f"{name}_summary.csv")}
    for figure in (
        "expert AUROC",
        "expert pixel AUROC",
        "expert AUPRO",
        "SCORE AUROC",
        "SCORE best balanced",
        "answer mask IoU",
        "answer yes or no",
    ):
        assert 0 <= lines["2", figure] <= 1, figure
    assert ("0", "expert AUROC") not in lines and lines["0", "answer missing"] == 0
    assert "| class | AUROC | AP |" in (tmp_path / f"{name}.md").read_text()
    assert {path.name for path in tmp_path.glob("*.jpg")} == {f"{name}_plate_best.jpg", f"{name}_plate_worst.jpg"}
    assert not [product for product in client.products()["products"] if product["name"].startswith("evaluate-")]


def test_the_expert_alone_says_what_it_says_in_an_inspection(server: Target, client: sightline.Client, folder: Path) -> None:
    (group,) = datasets.load(str(folder))
    with InferenceServerClient(server.grpc) as grpc, answers.enrolled(client, group, answers.Setting(2, 0)) as product:
        for picture in (group.test[0], group.test[-1]):
            alone = answers.ExpertAlone(grpc, PROFILE)(picture, product)
            whole = answers.Inspections(client, answers.SHORT)(picture, product)
            assert alone.expert == pytest.approx(whole.expert, abs=2e-4) and not alone.error
            assert np.abs(alone.heatmap.astype(int) - whole.heatmap).max() <= 1

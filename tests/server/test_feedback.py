"""A false alarm that an operator marks is learnt by the product: the score falls, and a defect is still one."""

from __future__ import annotations

import json
from pathlib import Path

import drawn
import pytest
import sightline
from conftest import Target
from PIL import Image
from sightline.cli import main
from sightline.feedback import Feedback

PRODUCT, SEED, ENROLLED = "textile", 5, 8


def saved(path: Path, number: int, kind: str | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = drawn.defective(PRODUCT, kind, SEED, number)[0] if kind else drawn.normal(PRODUCT, SEED, number)
    Image.fromarray(image).save(path)
    return str(path)


def test_a_false_alarm_is_learnt_with_one_command(
    server: Target, client: sightline.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIGHTLINE_URL", server.grpc)
    monkeypatch.chdir(tmp_path)
    good = [saved(Path("good") / f"{number}.png", number) for number in range(ENROLLED)]
    assert main(["enroll", PRODUCT, *good, "--feedback", "feedback"]) == 0
    others = (saved(Path("in") / f"{number}.png", number) for number in range(20, 40))
    alarm = next(path for path in others if client.inspect(path, product=PRODUCT, max_tokens=1).anomaly)  # a normal part, and yet
    crack = saved(Path("crack.png"), 41, "crack")
    assert client.inspect(crack, product=PRODUCT).anomaly
    capsys.readouterr()
    assert main(["feedback", "mark", alarm, "false_alarm", "--product", PRODUCT, "--accept", "--json"]) == 0
    marked, effect = map(json.loads, capsys.readouterr().out.splitlines())
    before, after = effect["before"], effect["after"]
    assert effect["cured"] and effect["images"] == ENROLLED + 1
    assert before["score"] == marked["report"]["score"] >= 0.5 and after["score"] < before["score"] - 0.2
    assert (before["experts"][0]["references"], after["experts"][0]["references"]) == (ENROLLED, ENROLLED + 1)
    assert set(marked["report"]["artefacts"]) >= {"sam_encoder", "lisa"} and Path(alarm).read_bytes() == kept(marked["id"])
    assert client.inspect(crack, product=PRODUCT).anomaly
    assert main(["feedback", "accept", marked["id"]]) == 0  # again: nothing new, and both lines are said to people
    old, new, product = capsys.readouterr().out.splitlines()
    assert all(f"score {after['score']:.2f}" in line and "NORMAL" in line for line in (old, new)) and f"{ENROLLED + 1} pictures" in product
    client.remove(PRODUCT)


def kept(mark: str) -> bytes:
    feedback = Feedback("feedback")
    return feedback.picture(feedback.find(mark))

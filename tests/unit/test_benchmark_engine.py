"""benchmarks/engine.py from end to end on a cut model, and the work that its figures stand on."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
from lisa_small import CONFIG, picture, tensors, tokenizer
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import engine as benchmark  # noqa: E402
import engine_models  # noqa: E402
import engine_runs  # noqa: E402
import sam_clock  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    config = CONFIG.with_(dtype="bfloat16", eos=())
    of = engine_models.Subject("small", config, tensors(config, four_bit=True), tokenizer(), picture(0), "why?", CPU, lambda: None, 7.0)
    monkeypatch.setattr(benchmark, "subject", lambda name, device: of)
    monkeypatch.setattr(benchmark, "copied", lambda clock: 10.0)
    monkeypatch.setitem(sam_clock.SIDE, "cpu", 256)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return of


def test_every_technique_has_its_row(tmp_path, capsys):
    out = tmp_path / "new" / "engine.csv"
    assert benchmark.main(["--tokens", "3", "--streams", "1", "2", "--threads", "1", "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open()))
    found = {(row["technique"], row["part"], row["streams"]): row for row in rows}
    for technique, part, streams in [
        (benchmark.REFERENCE, "request", "1"),
        (benchmark.CACHED, "decode", "1"),
        (benchmark.ENGINE, "request", "2"),
        (benchmark.ENGINE, "decode", "2"),
        (benchmark.ENGINE, "prefill", "1"),
        (benchmark.KERNEL, "product", "512"),
        (benchmark.UNPACKED, "product", "8"),
    ]:
        row = found[technique, part, streams]
        assert not row["remark"] and float(row["ms"]) > 0 and float(row["cpu_ms"] or 1) > 0 and float(row["tflops_share"]) > 0, row
    two = found[benchmark.ENGINE, "request", "2"]
    alone = found[benchmark.REFERENCE, "request", "1"]
    assert float(two["x"]) == pytest.approx(2 * float(alone["ms"]) / float(two["ms"]), rel=0.01)
    assert float(two["tokens_s"]) == pytest.approx(2 * 3 / float(two["ms"]) * 1e3, rel=0.01)
    assert found["bitsandbytes NF4, generate", "request", "1"]["remark"].startswith("absent: ")
    said = capsys.readouterr().out
    assert "7b, 320 + 3 tokens" in said and "fold fewer" in said and "rows: " in said


def test_without_time_left_rows_say_so(tmp_path):
    out = tmp_path / "engine.csv"
    assert benchmark.main(["--minutes", "1e-9", "--threads", "1", "--parts", "decode", "--out", str(out)]) == 1
    assert {row["remark"] for row in csv.DictReader(out.open())} == {"absent: no time left of the budget"}


@pytest.mark.parametrize("arguments", [["--model", "7b"], ["--streams", "0"], ["--tokens", "0"], ["--minutes", "0"]])
def test_what_cannot_be_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert "expected" in capsys.readouterr().err


def test_the_work_is_what_torch_counts(small):
    """But for attention, which torch does not count on a CPU."""
    model, config, length = small.plain, small.config, 40
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.logits(model.forward_train(torch.randn(1, length, config.hidden_size).bfloat16())[0])
    attention = 2 * config.num_layers * config.hidden_size * length * (length + 1)
    added = 2 * config.hidden_size * length
    assert counter.get_total_flops() == engine_models.forward_operations(config, 0, length, length) - attention + added


def test_the_released_shapes_need_45_times_fewer_operations():
    of = engine_models.shapes("7b")
    prompt = len(engine_runs.prompt_ids(of))
    ratio = engine_models.reference_operations(of, prompt, 48) / engine_models.cached_operations(of, prompt, 48)
    weights = sum(outputs * inputs for outputs, inputs in engine_models.linears(of.config).values())
    assert weights == 6_476_005_376 and ratio > 44
    assert engine_models.cached_operations(of, prompt, 1) == pytest.approx(4.2e12 + 0.155e12, rel=0.02)


def test_the_reference_says_what_the_engine_says(small):
    ours = engine_runs.Ours.over(small, small.plain, 2, 1)
    kept, take = [], ours.engine._take
    ours.engine._take = lambda sequence, token, hidden: kept.append(token) or take(sequence, token, hidden)
    request = engine_runs.Asked(small.features, small.question, max_tokens=4)
    final = engine_runs.Final()
    ours.engine.submit(request, final)
    final.wait()
    ours.close()
    assert kept == engine_runs.reference(small, 4)

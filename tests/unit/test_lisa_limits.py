"""The cache by the memory that is free, threads by trying, CUDA graphs by their padding: what needs no GPU of it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from lisa_small import CONFIG, Asked, engine, model, picture, tensors
from sightline_ensemble.lisa import crossover, graphs, limits, memory
from sightline_ensemble.lisa.int4 import NEVER, Int4Linear, dense, unpacked
from sightline_ensemble.lisa.limits import Limits, Threads
from sightline_ensemble.lisa.memory import fitted
from sightline_ensemble.lisa.runner import build_model
from sightline_ensemble.lisa.sequence import Request

PAGE = 16 * CONFIG.num_layers * 2 * CONFIG.num_kv_heads * CONFIG.head_dim * 4
CONTEXT = CONFIG.context // 16


# --- memory -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("free", "pages"),
    [(8 * 100 * PAGE, 100), (10**12, 16 * CONTEXT), (8 * PAGE * CONTEXT // 2, CONTEXT)],
    ids=["a share of it", "no more than all can use", "no less than one context"],
)
def test_the_cache_is_sized_by_the_free_memory(monkeypatch, free, pages):
    monkeypatch.setattr(memory, "available", lambda: free)
    runner = fitted(model(), Limits())
    assert runner.pages == pages and runner.store.rows.shape[1] == (pages + 1) * 16
    assert runner.store.rows[:, 16:].nbytes == pages * PAGE


def test_large_models_do_not_take_the_whole_machine(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**12)
    monkeypatch.setattr(memory, "CPU_MOST", 50 * PAGE)
    assert fitted(model(), Limits()).pages == 50


def test_the_size_can_be_given_and_a_context_always_fits():
    assert fitted(model(), Limits(cache_tokens=1000)).pages == 63
    assert fitted(model(), Limits(cache_tokens=20)).pages == CONTEXT


def test_without_room_for_a_context_one_line_says_so(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: PAGE)
    with pytest.raises(MemoryError, match="key-value cache: one sequence of 512 tokens needs .* expected as much free memory"):
        fitted(model(), Limits())


def test_the_log_line_says_what_the_cache_holds():
    of = engine(limits=Limits(threads=1, cache_tokens=1600))
    of.close()
    assert of.describe().endswith("cache 1600 tokens, 0.8 MB: 3 sequences of 512 tokens or 16 of 100")


def test_the_environment_changes_the_limits(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_LISA_CACHE_TOKENS", "4096")
    monkeypatch.setenv("SIGHTLINE_LISA_PATIENCE", "2.5")
    found = Limits.of(torch.device("cpu"))
    assert (found.cache_tokens, found.patience, found.running) == (4096, 2.5, 16)
    assert Limits.of(torch.device("cuda")).running == 32
    for text in ("many", "-1", "1.5"):
        monkeypatch.setenv("SIGHTLINE_LISA_CACHE_TOKENS", text)
        with pytest.raises(ValueError, match=f"SIGHTLINE_LISA_CACHE_TOKENS: '?{text}'?, expected"):
            Limits.of(torch.device("cpu"))


# --- threads ----------------------------------------------------------------------------------------------------------
def test_other_cores_are_used_while_nobody_else_does(monkeypatch):
    at, used = [limits.Look(0.0, 0.0, 0.0)], []
    monkeypatch.setattr(limits, "look", lambda: at[-1])
    monkeypatch.setattr(limits, "use", used.append)
    monkeypatch.setattr(limits.time, "monotonic", lambda: at[-1].at)
    threads = Threads(2)

    def passed(seconds: float, others: float, own: float) -> int:
        at.append(limits.Look(at[-1].at + seconds, at[-1].busy + (others + own) * seconds, at[-1].own + own * seconds))
        threads.set(prompt=False)
        assert used[-1] == 1, "a token has one"
        threads.set(prompt=True)
        return used[-1]

    assert passed(1.0, 0.0, 1.0) == 2, "one core is ours, the other free"
    assert passed(1.0, 0.1, 1.9) == 2, "both are ours"
    assert passed(0.1, 1.0, 1.0) == 2, "too early to tell"
    assert passed(1.0, 0.5, 1.5) == 1
    assert passed(1.0, 1.0, 1.0) == 1 and passed(5.0, 0.0, 0.1) == 2
    threads.most = 1
    threads.chosen = 1
    assert passed(1.0, 0.0, 1.0) == 1


def test_processor_time_is_counted():
    before = limits.look()
    begin = limits.time.process_time()
    while limits.time.process_time() - begin < 0.15:
        pass
    after = limits.look()
    assert after.own - before.own >= 0.15 and after.busy - before.busy >= 0.1 and after.at > before.at


# --- CUDA graphs ------------------------------------------------------------------------------------------------------
class Replayed:
    """Stands in for a CUDA graph: computes the step again from the tensors it was captured with."""

    def pool(self) -> tuple[int, int]:
        return 0, 1


@pytest.fixture
def capturing(monkeypatch):
    monkeypatch.setattr(graphs.torch.cuda, "CUDAGraph", Replayed)
    monkeypatch.setattr(graphs.torch.cuda, "graph", lambda graph, pool: nullcontext())
    monkeypatch.setattr(graphs.torch.cuda, "synchronize", lambda device: None)


def test_padded_steps_answer_the_same(capturing):
    of = engine(CONFIG.with_(eos=()), Limits(threads=1, cache_tokens=2048))
    asked = [Request(picture(i), "is it good?" + "!" * 9 * i, max_tokens=40) for i in range(5)]
    plain = [each.wait().text for each in [Asked(of, request) for request in asked]]
    runner, used = of.runner, set()
    runner.capture(running=6)
    assert runner.graphs.batches == [1, 2, 4, 6] and runner.graphs.widths == [16, 32]
    for shape, one in runner.graphs.captured.items():

        def replay(shape=shape, one=one):
            used.add(shape)
            one.hidden.copy_(runner._token(one.tokens, one.positions, one.tables))

        one.graph.replay = replay
    of.scheduler.pages.by_hash.clear()
    of.scheduler.pages.hash_of.clear()
    again = [each.wait().text for each in [Asked(of, request) for request in asked]]
    of.close()
    assert again == plain and {batch for batch, _ in used} >= {1, 6}


def test_a_capture_that_fails_is_one_line_and_no_more(monkeypatch, caplog):
    runner = fitted(model(), Limits())
    monkeypatch.setattr(graphs.torch.cuda, "synchronize", lambda device: (_ for _ in ()).throw(RuntimeError("no\nGPU")))
    runner.capture(4)
    assert runner.graphs is None and [r.getMessage() for r in caplog.records] == ["CUDA graphs: RuntimeError: no; steps run without"]


# --- 4-bit layers, unpacked or not --------------------------------------------------------------------------------------
def test_unpacked_weights_are_the_dense_ones_and_used_from_the_rows_measured():
    stored = tensors(CONFIG, four_bit=True)
    made = build_model(CONFIG.with_(dtype="bfloat16"), stored, torch.device("cpu"))
    layer, name = made.layers[0].qkv, "layers.0.qkv"
    assert layer.q4 is None and crossover.settle(made) == NEVER, "a CPU keeps its bits"
    weight = unpacked(stored[f"{name}.q4"], layer.sz)
    torch.testing.assert_close(weight.float(), dense(stored, name), rtol=2**-8, atol=0)
    layer.q4, layer.dense_from = stored[f"{name}.q4"], 8
    x = torch.randn(8, 64).bfloat16()
    assert torch.equal(layer(x), torch.nn.functional.linear(x, weight)) and torch.equal(layer(x.unsqueeze(0))[0], layer(x))
    layer.dense_from = 9
    assert not torch.equal(layer(x), torch.nn.functional.linear(x, weight))


def test_the_rows_are_those_from_which_unpacking_is_always_faster():
    def found(*pairs: tuple[float, float]) -> int:
        return crossover.first_dense([crossover.Timing(8 << i, *pair) for i, pair in enumerate(pairs)])

    assert found((1, 2), (2, 2), (4, 3), (8, 4)) == 32
    assert found((3, 2), (1, 2), (4, 3)) == 32
    assert found((1, 2), (2, 3)) == NEVER and found((2, 1)) == 8


def test_the_measured_rows_are_set_and_useless_nibbles_freed(monkeypatch):
    stored = tensors(CONFIG, four_bit=True)
    monkeypatch.setattr(crossover, "compiled", lambda layer: unpacked)
    for rows in (64, NEVER):
        made = build_model(CONFIG.with_(dtype="bfloat16"), stored, torch.device("cpu"))
        layers = [each for each in made.modules() if isinstance(each, Int4Linear)]
        for layer in layers:
            layer.q4 = torch.zeros(layer.outputs, layer.inputs // 2, dtype=torch.uint8)
        monkeypatch.setattr(crossover, "first_dense", lambda found, rows=rows: rows)
        assert crossover.settle(made) == rows and {layer.dense_from for layer in layers} == {rows}
        assert all((layer.q4 is None) == (rows == NEVER) for layer in layers)

"""A checkpoint is streamed: what the export takes is bounded by its shards and layers, not by its size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import golden_a
import torch

WIDTH, WIDE, LAYERS = 512, 1408, 32
MEGABYTE = 2**20

EXPORT = """
import resource, sys
from pathlib import Path
from sightline_export.lisa_checkpoint import check_weights, read_lisa
from sightline_export.lisa_language import write_language
from sightline_export.lisa_weights import Stored

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
lisa = read_lisa(Path(sys.argv[1]))
check_weights(lisa)
write_language(lisa, Path(sys.argv[2]), Stored(8))
print(peak() - before)
"""


def layer(index: int) -> dict[str, torch.Tensor]:
    shapes = {f"self_attn.{part}_proj": (WIDTH, WIDTH) for part in "qkvo"}
    shapes |= {"mlp.gate_proj": (WIDE, WIDTH), "mlp.up_proj": (WIDE, WIDTH), "mlp.down_proj": (WIDTH, WIDE)}
    shapes |= {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
    return {f"model.layers.{index}.{name}.weight": torch.full(shape, 0.01, dtype=torch.bfloat16) for name, shape in shapes.items()}


def write(folder: Path) -> int:
    """A folder of shards of two layers; its bytes."""
    folder.mkdir()
    ends = {"embed_tokens.weight": (604, WIDTH), "norm.weight": (WIDTH,), "mm_projector.weight": (WIDTH, 48), "mm_projector.bias": (WIDTH,)}
    for i, outputs in ((0, WIDTH), (2, 256)):
        ends |= {f"text_hidden_fcs.0.{i}.weight": (outputs, WIDTH), f"text_hidden_fcs.0.{i}.bias": (outputs,)}
    shards = [{f"model.{name}": torch.zeros(shape) for name, shape in ends.items()} | {"lm_head.weight": torch.zeros(604, WIDTH)}]
    shards += [layer(i) | layer(i + 1) for i in range(0, LAYERS, 2)]
    names = {name: f"pytorch_model-{i}.bin" for i, shard in enumerate(shards) for name in shard}
    for i, shard in enumerate(shards):
        torch.save(shard, folder / f"pytorch_model-{i}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "config.json").write_text('{"num_attention_heads": 8}')
    for file in ("tokenizer.model", "added_tokens.json"):
        shutil.copy(golden_a.DATA / "checkpoint" / file, folder)
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_peak_is_bounded_by_the_shards(tmp_path):
    size = write(tmp_path / "lisa")
    (tmp_path / "out").mkdir()
    line = [sys.executable, "-c", EXPORT, str(tmp_path / "lisa"), str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=True)
    shard = (tmp_path / "lisa" / "pytorch_model-1.bin").stat().st_size
    assert size > 15 * shard
    # Two shards are mapped, a layer is float32 for a moment; the rest is what reading anything takes (the tokenizer, allocators).
    assert int(done.stdout) < 3 * shard + 60 * MEGABYTE < size * 0.55, f"{int(done.stdout) / MEGABYTE:.0f} of {size / MEGABYTE:.0f} MB"
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > size * 0.49

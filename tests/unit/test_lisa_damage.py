"""Damaged checkpoints through the command: exit code 1, one line that names the file and the key, nothing left behind."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import golden_a
import pytest
import torch
from safetensors.torch import save_file
from sightline_export.cli import main

FIRST, SECOND = (f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))
INDEX = "pytorch_model.bin.index.json"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
NECK = "model.visual_model.image_encoder.neck.0.weight"
CLASS = "vision_model.embeddings.class_embedding"


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch was-run",)


def shards(change: Callable[[dict[str, golden_a.State]], None]) -> Callable[[Path], None]:
    """A change to the tensors of the checkpoint."""

    def apply(folder: Path) -> None:
        shutil.rmtree(folder / "lisa")
        golden_a.write_checkpoint(folder / "lisa", change)

    return apply


def spoiled(name: str, value: float) -> Callable[[Path], None]:
    def change(parts: dict[str, golden_a.State]) -> None:
        part = next(part for part in parts.values() if name in part)
        part[name] = part[name].clone()
        part[name].view(-1)[7] = value

    return shards(change)


def without(name: str) -> Callable[[Path], None]:
    return shards(lambda parts: next(part for part in parts.values() if name in part).pop(name))


def index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "lisa" / INDEX).read_text())
        change(content["weight_map"])
        (folder / "lisa" / INDEX).write_text(json.dumps(content))

    return apply


def config(**changed: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "lisa" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return apply


def clip(change: Callable[[golden_a.State], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "clip" / "pytorch_model.bin"
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return apply


def half(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[: (folder / path).stat().st_size // 2])


def safetensors(folder: Path) -> None:
    """One file instead of two, and half of it."""
    for file in (FIRST, SECOND, INDEX):
        (folder / "lisa" / file).unlink()
    save_file({name: value.clone() for name, value in golden_a.state().items()}, folder / "lisa" / "model.safetensors")
    half("lisa/model.safetensors")(folder)


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink() if (folder / path).is_file() else shutil.rmtree(folder / path)


def write(path: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_bytes(content)


def narrow(parts: dict[str, golden_a.State]) -> None:
    parts[FIRST]["model.mm_projector.weight"] = torch.zeros(64, 40)


DAMAGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing folder": (remove("lisa"), ("lisa: no such folder",)),
    "missing shard": (remove(f"lisa/{SECOND}"), (f"{SECOND}: missing", INDEX)),
    "index names another file": (index(lambda names: names.update({Q_PROJ: "pytorch_model-00009.bin"})), ("00009.bin: missing", Q_PROJ)),
    "index of nothing": (write(f"lisa/{INDEX}", b"{}"), (f"{INDEX}: no weight_map",)),
    "index that is no JSON": (write(f"lisa/{INDEX}", b"{"), (f"{INDEX}: no JSON",)),
    "missing key": (without(Q_PROJ), (f"{FIRST}: tensor '{Q_PROJ}' is missing",)),
    "missing key, in the index too": (index(lambda names: names.pop("lm_head.weight")), ("lisa: tensor 'lm_head.weight' is missing",)),
    "missing key of SAM": (without(NECK), (f"tensor '{NECK}' is missing",)),
    "NaN": (spoiled(Q_PROJ, torch.nan), (f"{FIRST}: tensor '{Q_PROJ}' holds NaN or infinity",)),
    "infinity in SAM": (spoiled(NECK, torch.inf), (f"tensor '{NECK}' holds NaN or infinity",)),
    "truncated shard": (half(f"lisa/{SECOND}"), (f"{SECOND}: truncated or no PyTorch file",)),
    "truncated safetensors": (safetensors, ("model.safetensors: truncated or no safetensors file",)),
    "garbage": (write(f"lisa/{FIRST}", b"\x80\x02garbage" * 99), (f"{FIRST}: truncated or no PyTorch file",)),
    "code": (
        lambda folder: torch.save({Q_PROJ: Code()}, folder / "lisa" / FIRST),
        (f"{FIRST}: holds more than tensors; refused, and nothing in it was run",),
    ),
    "bare pickle with code": (write(f"lisa/{FIRST}", pickle.dumps(Code(), 2)), (f"{FIRST}: holds more than tensors",)),
    "missing tokenizer": (remove("lisa/tokenizer.model"), ("lisa/tokenizer.model: no such file",)),
    "missing configuration": (remove("lisa/config.json"), ("lisa/config.json: no such file",)),
    "a word for a number": (config(rms_norm_eps="small"), ("lisa/config.json: rms_norm_eps is 'small', expected a number",)),
    "no room": (config(max_position_embeddings=8), ("lisa/config.json: slots and context are too small",)),
    "no such token": (config(eos_token_id=4000), ("lisa/config.json: bos_token_id or eos_token_id is no token",)),
    "missing CLIP": (remove("clip"), ("clip: no such folder",)),
    "CLIP of another width": (shards(narrow), ("clip: its features are 48 wide, but 'model.mm_projector' of lisa takes 40",)),
    "no CLIP": (clip(lambda state: state.pop(CLASS)), (f"clip: no CLIP: it has no tensor '{CLASS}'",)),
    "NaN in CLIP": (clip(lambda state: state[CLASS].fill_(torch.nan)), (f"pytorch_model.bin: tensor '{CLASS}' holds NaN",)),
    "truncated CLIP": (half("clip/pytorch_model.bin"), ("pytorch_model.bin: truncated or no PyTorch file",)),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_it_is_refused_in_one_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(golden_a.checkpoint(), tmp_path / "lisa")
    shutil.copytree(golden_a.CLIP, tmp_path / "clip")
    damage, words = DAMAGES[case]
    damage(tmp_path)
    given = ["--checkpoint", str(tmp_path / "lisa"), "--clip", str(tmp_path / "clip"), "--repository", str(tmp_path / "r")]
    assert main(["lisa", *given, "--bits", "4"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("sightline-export: ") and all(word in line for word in words), line
    assert str(tmp_path) not in line and "Traceback" not in line
    assert not (tmp_path / "was-run").exists() and not (tmp_path / "r").exists() and not (tmp_path / "build").exists()

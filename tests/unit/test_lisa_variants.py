"""Another LISA than the golden one, whole: other dims, the 13B's token order, LLaVA 1.5's projector, safetensors, a CLIP of 56 pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import golden_a
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lisa_small import Asked
from safetensors.torch import save_file
from sightline_ensemble.cutout import vision_pixels
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.prompt import Prompter
from sightline_ensemble.lisa.sequence import Request
from sightline_export import bits
from sightline_export.clip import load_clip
from sightline_export.lisa_checkpoint import check_clip, check_weights, read_lisa
from sightline_export.lisa_language import write_language
from sightline_export.lisa_sam import inner_sam
from sightline_export.lisa_weights import Exact, Stored
from sightline_export.samples import DIALOGUES, JUDGED, Judge, sample, text

WORDS, WIDTH, WIDE, LAYERS, SEEN = 600, 96, 200, 3, 24
ADDED = {"[SEG]": 600, "<im_start>": 601, "<im_end>": 602}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape) * shape[-1] ** -0.5


def write_lisa(folder: Path) -> Path:
    """Grouped keys too, which no released LISA has: 6 heads, 2 of keys."""
    torch.manual_seed(1)
    state = {
        "model.embed_tokens.weight": torch.randn(603, WIDTH),
        "lm_head.weight": random(603, WIDTH),
        "model.norm.weight": torch.ones(WIDTH),
    }
    shapes = {f"self_attn.{p}_proj": (n, WIDTH) for p, n in (("q", WIDTH), ("k", 32), ("v", 32), ("o", WIDTH))}
    shapes |= {"mlp.gate_proj": (WIDE, WIDTH), "mlp.up_proj": (WIDE, WIDTH), "mlp.down_proj": (WIDTH, WIDE)}
    for i in range(LAYERS):
        state |= {f"model.layers.{i}.{name}.weight": random(*shape) for name, shape in shapes.items()}
        state |= {f"model.layers.{i}.{name}layernorm.weight": torch.ones(WIDTH) for name in ("input_", "post_attention_")}
    for name, outputs, inputs in (("mm_projector.0", WIDTH, SEEN), ("mm_projector.2", WIDTH, WIDTH), ("text_hidden_fcs.0.0", WIDTH, WIDTH)):
        state |= {f"model.{name}.weight": random(outputs, inputs), f"model.{name}.bias": torch.randn(outputs)}
    state |= {"model.text_hidden_fcs.0.2.weight": random(256, WIDTH), "model.text_hidden_fcs.0.2.bias": torch.randn(256)}
    state |= {name: value.clone() for name, value in golden_a.state().items() if "visual_model" in name}
    folder.mkdir()
    save_file({name: value.bfloat16() if "visual" not in name else value for name, value in state.items()}, folder / "model.safetensors")
    config = {
        "num_attention_heads": 6,
        "hidden_size": WIDTH,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 1024,
        "mm_use_im_start_end": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(json.dumps(ADDED))
    shutil.copy(golden_a.DATA / "checkpoint" / "tokenizer.model", folder)
    return folder


def write_clip(folder: Path) -> Path:
    """56 pixels in patches of 14: 16 tokens; a bare vision model in safetensors with a preprocessor of the new form."""
    torch.manual_seed(2)
    state = {"embeddings.class_embedding": torch.randn(SEEN), "embeddings.patch_embedding.weight": random(SEEN, 3, 14, 14)}
    state["embeddings.position_embedding.weight"] = torch.randn(17, SEEN)
    linears = {f"self_attn.{p}_proj": (SEEN, SEEN) for p in ("q", "k", "v", "out")} | {"mlp.fc1": (40, SEEN), "mlp.fc2": (SEEN, 40)}
    norms = ["pre_layrnorm", *(f"encoder.layers.{i}.layer_norm{n}" for i in range(3) for n in (1, 2))]
    for name, (outputs, inputs) in ((f"encoder.layers.{i}.{name}", shape) for i in range(3) for name, shape in linears.items()):
        state |= {f"{name}.weight": random(outputs, inputs), f"{name}.bias": torch.randn(outputs)}
    for name in norms:
        state |= {f"{name}.weight": torch.ones(SEEN), f"{name}.bias": torch.zeros(SEEN)}
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 3, "hidden_act": "gelu"}))
    pixels = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    made = tmp_path_factory.mktemp("variant")
    return write_lisa(made / "lisa"), write_clip(made / "clip")


def test_it_is_exported_at_four_bits_and_answers(folders, tmp_path):
    lisa, clip = read_lisa(folders[0]), load_clip(folders[1])
    check_weights(lisa)
    check_clip(lisa, folders[1], clip.size)
    config = lisa.config
    assert (config.num_heads, config.num_kv_heads, config.seg, config.projector, config.image_width) == (6, 2, 600, "mlp2x_gelu", SEEN)
    assert (clip.size.tokens, clip.size.activation, inner_sam(lisa.shards).size.width) == (16, "gelu", 32)
    with torch.inference_mode():
        features = clip(torch.from_numpy(vision_pixels(np.asarray(golden_a.picture(0)), clip.size.dims)))[0][0].numpy()
    prompter = Prompter(config, lisa.tokenizer)
    calibration, held_out = ([sample(prompter, *one, features, 0) for one in some] for some in (DIALOGUES, JUDGED))
    judge = Judge(calibration, [*held_out, text(prompter)], lambda picture, vectors: (vectors > 0).numpy().reshape(-1, 16, 16))
    choice = bits.choose(Exact(lisa), judge, 4, 128, tmp_path / "methods", lambda i: None)
    assert choice.found[choice.form].logit_error < choice.found[bits.label("rounded", 128)].logit_error < 1
    write_language(lisa, tmp_path, Stored(4, 128, tmp_path / "methods" / choice.method))
    engine = Engine.load(tmp_path)
    final = Asked(engine, Request(features, "Is it broken?", max_tokens=5)).wait()
    ids, model = engine.prompter.build("Is it broken?", (), len(features)), engine.runner.model
    engine.close()
    assert final.status == "" and final.tokens > 0
    assert ids.count(-1) == 16 and (ids[ids.index(-1) - 1], ids[ids.index(-1) + 16]) == (601, 602)
    state = Exact(lisa).ends()
    x = F.linear(torch.from_numpy(features), state["projector.0.weight"], state["projector.0.bias"])
    expected = F.linear(F.gelu(x), state["projector.2.weight"], state["projector.2.bias"])
    torch.testing.assert_close(model.project(torch.from_numpy(features)), expected, atol=1e-5, rtol=1e-5)

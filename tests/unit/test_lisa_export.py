"""From a released LISA folder to the engine's files: the reference's tokens, every tensor, and refusals by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import golden_a
import pytest
import torch
from safetensors.torch import load_file, save_file
from sightline_ensemble.lisa.config import Template
from sightline_ensemble.lisa.prompt import Prompter
from sightline_export.checkpoint import CheckpointError
from sightline_export.clip import ClipSize
from sightline_export.lisa_checkpoint import LisaCheckpoint, check_clip, check_weights, read_lisa, unknown
from sightline_export.lisa_tokenizer import Piece, merges, read_pieces, read_tokenizer
from sightline_export.lisa_weights import Stored, groups
from sightline_export.stream_file import Group, write_safetensors

FIRST, SECOND = (f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))
SEG_HEAD = "model.text_hidden_fcs.0.2.weight"


@pytest.fixture(scope="module")
def lisa() -> LisaCheckpoint:
    return read_lisa(golden_a.checkpoint())


def spliced(ids: list[int], pictures: int = 256) -> list[int]:
    """A prompt with the reference's one id for the picture."""
    at = ids.index(-1)
    assert ids[at : at + pictures] == [-1] * pictures
    return [*ids[:at], -200, *ids[at + pictures :]]


# --- tokens -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", golden_a.CASES)
def test_prompts_are_the_references(lisa, case):
    ids = Prompter(lisa.config, lisa.tokenizer).build(str(golden_a.of(case, "question")), (), 256)
    assert spliced(ids) == golden_a.of(case, "input_ids").tolist()


@pytest.mark.parametrize("case", golden_a.CASES)
def test_another_conversation_is_a_matter_of_its_template(lisa, case):
    system = (
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
        "and assist the user with a variety of tasks using natural language."
    )
    template = Template(
        f"<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n", "{image}{question} [/INST]", lisa.config.template.image, " {answer}</s>",
        ("<s>", "</s>"), joined=True,
    )  # fmt: skip
    ids = Prompter(lisa.config.with_(template=template), lisa.tokenizer).build(str(golden_a.of(case, "question")), (), 256)
    assert spliced(ids) == golden_a.of(case, "input_ids_llava_llama_2").tolist()


def test_the_references_ids_of_other_texts(lisa):
    """Its texts with special tokens in them, written as a template: nothing else may name one."""
    for known in json.loads((golden_a.DATA / "cases.json").read_text())["tokenizer"]:
        template = Template(system="<s>" + known["text"], user="{question}", specials=("<s>", "</s>"), joined=True)
        assert Prompter(lisa.config.with_(template=template), lisa.tokenizer).build("", (), 0) == known["ids"], known["text"]
    assert lisa.config.seg not in lisa.tokenizer.encode("[SEG]", add_special_tokens=False).ids


def test_answers_are_read_as_the_reference_reads_them(lisa):
    prompter = Prompter(lisa.config, lisa.tokenizer)
    for case in golden_a.CASES:
        ids = golden_a.of(case, "output_ids")[len(golden_a.of(case, "input_ids")) :].tolist()
        plain = str(golden_a.of(case, "answer")).replace("</s>", "").replace("[SEG]", "")
        assert prompter.decode(ids).split() == plain.split()


def test_later_turns_follow_the_conversation(lisa):
    ids = Prompter(lisa.config, lisa.tokenizer).build("And why?", (("user", "Is it broken?"), ("assistant", "Yes.")), 2)
    first = Prompter(lisa.config, lisa.tokenizer).build("Is it broken?", (), 2)
    later = [lisa.tokenizer.encode(text).ids for text in ("ASSISTANT: Yes.", "USER: And why? ASSISTANT:")]
    assert ids[: len(first)] == first and ids[-len(later[1]) - 1 :] == [2, *later[1]]


def test_merges_prefer_the_best_score_then_the_first_piece():
    pieces = [
        Piece(text, score, kind) for text, score, kind in (("<unk>", 0, 2), ("a", -9, 1), ("b", -9, 1), ("ab", -2, 1), ("aba", -1, 1))
    ]
    assert merges(pieces) == [("ab", "a"), ("a", "b")]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\x7f", "cut", "unigram"])
def test_a_foreign_tokenizer_is_refused(tmp_path, content):
    model = (golden_a.DATA / "checkpoint" / "tokenizer.model").read_bytes()
    if content == "unigram":
        at = model.index(b"\x18\x02", 8000)  # trainer_spec.model_type
        content = model[:at] + b"\x18\x01" + model[at + 2 :]
    (tmp_path / "tokenizer.model").write_bytes(model[:5000] if content == "cut" else content)
    with pytest.raises(CheckpointError, match="tokenizer.model: (damaged or no sentencepiece model|no Llama tokenizer)"):
        read_tokenizer(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="tokenizer.model: no such file"):
        read_pieces(tmp_path / "tokenizer.model")


# --- weights ------------------------------------------------------------------------------------------------------------
def test_every_tensor_arrives_where_the_engine_reads_it(lisa, tmp_path):
    seen: list[str] = []
    write_safetensors(tmp_path / "m.safetensors", groups(lisa, Stored(32)), seen.append)
    made, state = load_file(tmp_path / "m.safetensors"), golden_a.state()
    assert not unknown(lisa) and seen[0] == "embed_tokens.weight" and all(value.dtype == torch.float32 for value in made.values())

    def equal(name: str, *parts: str) -> None:
        assert torch.equal(made[name], torch.cat([state[f"model.{part}"].float() for part in parts])), name

    attn, mlp = "layers.1.self_attn", "layers.1.mlp"
    equal("layers.1.qkv.weight", *(f"{attn}.{part}_proj.weight" for part in "qkv"))
    equal("layers.1.gate_up.weight", f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
    equal("layers.1.down.weight", f"{mlp}.down_proj.weight")
    equal("layers.1.post_norm.weight", "layers.1.post_attention_layernorm.weight")
    equal("text_hidden_fcs.2.bias", "text_hidden_fcs.0.2.bias")
    equal("projector.0.weight", "mm_projector.weight")
    assert torch.equal(torch.cat([made["head.weight"], made["added_head"]]), state["lm_head.weight"].float())
    assert len(made["added_embeddings"]) == 4 and len(made["embed_tokens.weight"]) == 600


def test_the_file_is_what_safetensors_writes(tmp_path):
    values = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.arange(6, dtype=torch.uint8).view(2, 3)}
    whole = [Group({n: (v.dtype, tuple(v.shape)) for n, v in values.items()}, lambda: values)]
    write_safetensors(tmp_path / "m.safetensors", whole)
    found = load_file(tmp_path / "m.safetensors")
    assert all(torch.equal(found[name], value) for name, value in values.items()) and set(found) == set(values)
    assert struct.unpack("<Q", (tmp_path / "m.safetensors").read_bytes()[:8])[0] % 8 == 0


# --- other layouts ------------------------------------------------------------------------------------------------------
def changed(tmp_path: Path, change: golden_a.Change | None = None, **config: object) -> Path:
    """The checkpoint after a change to its shards, or to its configuration (None removes a key)."""
    folder = golden_a.write_checkpoint(tmp_path / "checkpoint", change)
    content = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def test_lisa_plus_plus_its_projector_and_a_single_added_token(tmp_path):
    """LLaVA 1.5's two layers, [SEG] right after the vocabulary, no <im_start>, one safetensors file."""

    def change(shards: dict[str, golden_a.State]) -> None:
        first, second = shards[FIRST], shards[SECOND]
        weight, bias = first.pop("model.mm_projector.weight"), first.pop("model.mm_projector.bias")
        first |= {"model.mm_projector.0.weight": weight, "model.mm_projector.0.bias": bias}
        first |= {"model.mm_projector.2.weight": torch.eye(64), "model.mm_projector.2.bias": bias}
        for part, name in ((first, "model.embed_tokens.weight"), (second, "lm_head.weight")):
            part[name] = torch.cat([part[name][:600], part[name][603:]])

    folder = changed(tmp_path, change, mm_use_im_start_end=False, vocab_size=601)
    state = {k: v for file in (FIRST, SECOND) for k, v in torch.load(folder / file, weights_only=True).items()}
    save_file(state, folder / "model.safetensors")
    for file in (FIRST, SECOND, "pytorch_model.bin.index.json"):
        (folder / file).unlink()
    (folder / "added_tokens.json").write_text('{"[SEG]": 600}')
    lisa = read_lisa(folder)
    assert (lisa.config.projector, lisa.config.seg, lisa.config.image_width) == ("mlp2x_gelu", 600, 48)
    assert {name for group in groups(lisa, Stored(32)) for name in group.forms} >= {"projector.0.weight", "projector.2.bias"}
    ids = spliced(Prompter(lisa.config, lisa.tokenizer).build("Why?", (), 576), 576)
    at = ids.index(-200)
    assert ids[at - 1] == lisa.tokenizer.encode(" USER: ").ids[-1] and ids[at + 2] == 13  # the line's end stays beside a picture


def test_the_order_of_the_13b_tokens_and_rows_nobody_named(tmp_path):
    folder = changed(tmp_path)
    (folder / "added_tokens.json").write_text('{"[SEG]": 600, "<im_start>": 601, "<im_end>": 602}')
    lisa = read_lisa(folder)
    assert lisa.config.seg == 600 and lisa.config.added["<row 603>"] == 603
    ids = Prompter(lisa.config, lisa.tokenizer).build("Why?", (), 1)
    assert ids[ids.index(-1) - 1] == 601 and ids[ids.index(-1) + 1] == 602


# --- refusals -----------------------------------------------------------------------------------------------------------
def _missing(shards: dict[str, golden_a.State]) -> None:
    del shards[SECOND][SEG_HEAD]


def _nan(shards: dict[str, golden_a.State]) -> None:
    shards[SECOND][SEG_HEAD] = shards[SECOND][SEG_HEAD].clone().index_fill_(0, torch.tensor(3), torch.nan)


def _narrow(shards: dict[str, golden_a.State]) -> None:
    shards[FIRST]["model.layers.1.mlp.up_proj.weight"] = torch.zeros(175, 64)


def _extra(shards: dict[str, golden_a.State]) -> None:
    shards[FIRST]["model.layers.1.self_attn.q_proj.lora_A.weight"] = torch.zeros(8, 64)


REFUSALS: dict[str, tuple[golden_a.Change | None, dict[str, object], str]] = {
    "missing key": (_missing, {}, f"{SECOND}: tensor '{SEG_HEAD}' is missing, though the index"),
    "NaN": (_nan, {}, f"{SECOND}: tensor '{SEG_HEAD}' holds NaN or infinity"),
    "shape": (_narrow, {}, rf"{FIRST}: tensor 'model.layers.1.mlp.up_proj.weight' has the shape \[175, 64\], expected \[176, 64\]"),
    "layers": (None, {"num_hidden_layers": 3}, "config.json: num_hidden_layers is 3, but the tensors say 2"),
    "heads": (None, {"num_attention_heads": None}, "config.json: num_attention_heads is None, expected a divisor of the width 64"),
    "rope": (None, {"rope_scaling": {"type": "linear", "factor": 2}}, "config.json: rope_scaling is set"),
    "cls": (None, {"mm_vision_select_feature": "cls_patch"}, "config.json: mm_vision_select_feature is 'cls_patch', expected 'patch'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path, case):
    change, config, message = REFUSALS[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        check_weights(read_lisa(changed(tmp_path, change, **config)))
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    folder = changed(tmp_path)
    refused: list[tuple[Callable[[], object], str]] = [
        ((folder / SECOND).unlink, f"{SECOND}: missing; pytorch_model.bin.index.json says that 'model.visual_model"),
        ((folder / "pytorch_model.bin.index.json").unlink, "checkpoint: no weights; expected"),
    ]
    for remove, message in refused:
        remove()
        with pytest.raises(CheckpointError, match=message):
            read_lisa(folder)
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        read_lisa(tmp_path / "nowhere")


def test_tokens_that_do_not_fit_are_named(tmp_path):
    folder = changed(tmp_path)
    for content, message in (
        ('{"<im_start>": 601}', r"added_tokens.json: no token '\[SEG\]'; expected a LISA"),
        ('{"[SEG]": 604}', "added_tokens.json: ids up to 604, but 'model.embed_tokens.weight' has 604 rows"),
        ('{"[SEG]": 603}', "no token '<im_start>', but config.json says mm_use_im_start_end"),
    ):
        (folder / "added_tokens.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            read_lisa(folder)


def test_the_wrong_clip_is_refused(lisa):
    large = ClipSize(1024, 16, 4096, 23, 14, 336)
    with pytest.raises(CheckpointError, match="clip: its features are 1024 wide, but 'model.mm_projector' of checkpoint takes 48"):
        check_clip(lisa, golden_a.CLIP, large)
    real = LisaCheckpoint(
        lisa.folder, lisa.shards, lisa.config.with_(image_width=1024), lisa.tokenizer, -2, "openai/clip-vit-large-patch14"
    )
    with pytest.raises(CheckpointError, match="patches of 14 in 336 pixels, expected 14 in 224: checkpoint was trained with openai/clip"):
        check_clip(real, golden_a.CLIP, large)
    check_clip(real, golden_a.CLIP, ClipSize(1024, 16, 4096, 23, 14, 224))


def test_what_is_not_understood_is_told(tmp_path):
    assert unknown(read_lisa(changed(tmp_path, _extra))) == ["model.layers.1.self_attn.q_proj.lora_A.weight"]

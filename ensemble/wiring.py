"""How the steps are wired: which tensor of which step feeds which. Part of the spec; `contract.py` holds the tensors."""

from __future__ import annotations

from dataclasses import dataclass

from .contract import (
    ANSWER,
    BOX,
    CLOCKS,
    CUTOUT,
    DIALOGUE,
    ENGINES_WITH_CLOCK,
    EXPERT_MAP,
    EXPERTS,
    FINDING,
    HEATMAP,
    IMAGE,
    IMAGE_EMBEDDING,
    IMAGE_FEATURES,
    IOU,
    MASK,
    MODELS,
    ORIGINAL_SIZE,
    PART_BOX,
    PART_IOUS,
    PART_MASKS,
    PICTURE_EVIDENCE,
    POINTS,
    QUESTION,
    REQUEST,
    RESIZED_SIZE,
    SCORE,
    SEG_COUNT,
    SEG_EMBEDDINGS,
    SEG_PROBABILITY,
    TICKET,
    Tensor,
)


@dataclass(frozen=True)
class Step:
    """One step inside an ensemble: tensor names of the model -> names of the ensemble, only where they differ or are chosen."""

    model: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Ensemble:
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]


def step(
    model: str, inputs: dict[str, str] | None = None, outputs: dict[str, str] | None = None, only: tuple[str, ...] | None = None
) -> Step:
    """A step whose tensors keep their names but for those renamed; `only` selects the outputs that are mapped."""
    spec = MODELS[model]
    chosen = [t.name for t in spec.outputs if only is None or t.name in only]
    if model in ENGINES_WITH_CLOCK:
        chosen.append(f"{model}_clock")  # dropped by the generator where the step is an engine
    return Step(
        model,
        {t.name: (inputs or {}).get(t.name, t.name) for t in spec.inputs},
        {name: (outputs or {}).get(name, name) for name in chosen},
    )


PREPARED = (
    TICKET, IMAGE_EMBEDDING, IMAGE_FEATURES, PICTURE_EVIDENCE, PART_MASKS, PART_IOUS, RESIZED_SIZE, ORIGINAL_SIZE, PART_BOX,
    QUESTION, DIALOGUE, EXPERTS, EXPERT_MAP, HEATMAP, *CLOCKS[:6],
)  # fmt: skip
"""What `prepare` hands on to LISA, to `judge` and to the report."""

PART = {"low_res_masks": "part_masks", "iou_predictions": "part_ious"}
DEFECTS = {"low_res_masks": "defect_masks", "iou_predictions": "defect_ious"}

_DECODED = ("ticket", "sam_pixels", "resized_size", "original_size", "part_box", "point_coords", "point_labels", "decode_clock")
_PICTURE_STEPS = (
    step("decode", only=(*_DECODED, "part_pixels")),
    step("sam_encoder"),
    step("sam_decoder", outputs=PART),
    step("cutout", only=("vision_pixels", "cutout_clock")),
    step("vision_encoder"),
    step("expert"),
)

ENSEMBLES: dict[str, Ensemble] = {
    ensemble.name: ensemble
    for ensemble in (
        Ensemble("prepare", REQUEST, PREPARED, _PICTURE_STEPS),
        Ensemble(
            "judge",
            (
                IMAGE_EMBEDDING, SEG_EMBEDDINGS, SEG_COUNT, SEG_PROBABILITY, PICTURE_EVIDENCE, EXPERTS, EXPERT_MAP, PART_MASKS, PART_IOUS,
                ORIGINAL_SIZE, RESIZED_SIZE, PART_BOX, TICKET,
            ),
            (FINDING, SCORE, MASK, *(clock for clock in CLOCKS if clock.name in ("lisa_decoder_clock", "verdict_clock"))),
            (step("lisa_decoder", outputs=DEFECTS), step("verdict")),
        ),
        Ensemble("inspect", REQUEST, ANSWER, ()),  # filled below: it is made of the two above
        Ensemble(
            "segment",
            (IMAGE, BOX, POINTS),
            (MASK, IOU, CUTOUT),
            (
                step("decode", only=(*_DECODED, "pixels")),
                step("sam_encoder"),
                step("sam_decoder", outputs=PART),
                step("cutout", inputs={"release": "ticket"}, only=("MASK", "IOU", "CUTOUT")),
            ),
        ),
    )
}  # fmt: skip


def _nested(name: str, inputs: dict[str, str] | None = None) -> Step:
    """An ensemble as a step of another one."""
    spec = ENSEMBLES[name]
    return Step(name, {t.name: (inputs or {}).get(t.name, t.name) for t in spec.inputs}, {t.name: t.name for t in spec.outputs})


LOOKED = {"answer": "looked_answer", "tokens": "looked_tokens"}
ENSEMBLES["inspect"] = Ensemble(
    "inspect",
    REQUEST,
    ANSWER,
    (
        _nested("prepare"),
        step("lisa", outputs=LOOKED),
        _nested("judge"),
        step("explain", inputs=LOOKED),
        step("report", inputs={"release": "ticket"}),
    ),
)

"""The one spec of the pipeline: every model's tensors, the limits, the words for places.

`config.pbtxt` files are generated from `MODELS` and `wiring.ENSEMBLES` (`ensemble/configs.py`) and a test keeps them equal.
Upper-case tensors are public (the contract, version 1); lower-case ones are internal and may change.

Shape letters used below: H, W original picture; S side of SAM's square input; G side of SAM's grid; M side of
`low_res_masks` (4 G); P prompts of one picture, N points of one prompt (a box is two); V side of the vision encoder's input;
T picture tokens of LISA, C their width; Q patches of the expert, D their width (all stages side by side); K `[SEG]` slots of
one request; E width of a `[SEG]` embedding.
"""

from __future__ import annotations

from .spec import Model, Range, Tensor, batched, clock, optional

SCHEMA = "sightline/1"
DEFAULT_PROMPT = "Is there any anomaly in the image? If so, where is it and what is it?"
LOCATIONS = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

MAX_PICTURE_BYTES = 64 * 2**20
MAX_PICTURE_PIXELS = 100_000_000
MAX_PROMPT_CHARACTERS = 2000
MAX_POINTS = 1024
MAX_HISTORY_TURNS = 32
MAX_REFERENCES = 16
MAX_ENROLMENT = 500
MAX_TOKENS_LIMIT = 512
DEFAULT_MAX_TOKENS = 96
HEATMAP_SIDE = 256
PART_SIDE = 2048  # the longest side of `part_pixels`: beyond it no vision encoder sees a difference
SEG_SLOTS = 4  # `[SEG]` of one request that get a mask
IN_FLIGHT_LIMIT = 64  # requests admitted at a time; the next one is told "queue full" by the first step
PRODUCT_NAME = r"[a-z0-9_-]{1,64}"


# --- public tensors -------------------------------------------------------------------------------------------------
IMAGE = Tensor("IMAGE", "STRING", (1,))
PROMPT = Tensor("PROMPT", "STRING", (1,), optional=True)
BOX = Tensor("BOX", "FP32", (4,), optional=True)
POINTS = Tensor("POINTS", "FP32", (-1, 3), optional=True)
PRODUCT = Tensor("PRODUCT", "STRING", (1,), optional=True)
REFERENCE = Tensor("REFERENCE", "STRING", (-1,), optional=True)
EXPERT = Tensor("EXPERT", "STRING", (1,), optional=True)
HISTORY = Tensor("HISTORY", "STRING", (1,), optional=True)
MAX_TOKENS = Tensor("MAX_TOKENS", "INT32", (1,), optional=True)
REQUEST = (IMAGE, PROMPT, BOX, PRODUCT, REFERENCE, EXPERT, HISTORY, MAX_TOKENS)

REPORT = Tensor("REPORT", "STRING", (1,))
TEXT = Tensor("TEXT", "STRING", (1,))
SCORE = Tensor("SCORE", "FP32", (1,))
MASK = Tensor("MASK", "UINT8", (-1, -1))
HEATMAP = Tensor("HEATMAP", "UINT8", (-1, -1))
IOU = Tensor("IOU", "FP32", (1,))
CUTOUT = Tensor("CUTOUT", "STRING", (1,))
ANSWER = (REPORT, TEXT, SCORE, MASK, HEATMAP)

# --- internal tensors, as a max_batch_size 0 model sees them ----------------------------------------------------------
TICKET = Tensor("ticket", "INT64", (2,))  # row of the ledger (-1: none) and deadline in CLOCK_MONOTONIC ns (0: none)
RELEASE = Tensor("release", "INT64", (2,), optional=True)  # a ticket to hand back when the step has answered
SAM_PIXELS = Tensor("sam_pixels", "UINT8", (1, 3, -1, -1))  # resized (PIL bilinear), zero-padded right and bottom to S x S
RESIZED_SIZE = Tensor("resized_size", "INT32", (1, 2))  # height, width inside sam_pixels; beyond them is padding
ORIGINAL_SIZE = Tensor("original_size", "INT32", (2,))  # H, W
PART_BOX = Tensor("part_box", "FP32", (-1, 4))  # [1, 4] BOX clipped to the picture, or [0, 4] where none was given
POINT_COORDS = Tensor("point_coords", "FP32", (1, -1, -1, 2))  # [1, P, N, 2] x, y in the frame of sam_pixels
POINT_LABELS = Tensor("point_labels", "FP32", (1, -1, -1))  # [1, P, N] 1 fore-, 0 background, 2 and 3 box corners, -1 padding
PART_PIXELS = Tensor("part_pixels", "UINT8", (-1, -1, 3))  # RGB, cropped to the box, longest side at most PART_SIDE
PIXELS = Tensor("pixels", "UINT8", (-1, -1, 3))  # RGB, cropped to the box, every pixel
IMAGE_EMBEDDING = Tensor("image_embedding", "FP32", (1, -1, -1, -1))  # [1, 256, G, G]
PART_MASKS = Tensor("part_masks", "FP32", (1, -1, -1, -1))  # SAM's low_res_masks of the part, logits [1, P, M, M], here P = 1
PART_IOUS = Tensor("part_ious", "FP32", (1, -1))  # [1, P]
VISION_PIXELS = Tensor("vision_pixels", "UINT8", (1, 3, -1, -1))  # [1, 3, V, V]
IMAGE_FEATURES = Tensor("image_features", "FP32", (1, -1, -1))  # [1, T, C]
PICTURE_EVIDENCE = Tensor("picture_evidence", "FP32", (1, 2))  # [1, 2]: the reader's logit of "defective", and how foreign: > 1 unknown
PATCH_FEATURES = Tensor("patch_features", "FP32", (1, -1, -1))  # [1, Q, D], each stage's part of unit length
QUESTION = Tensor("question", "STRING", (1,))  # exactly what LISA is asked, in this turn
DIALOGUE = Tensor("dialogue", "STRING", (1,))  # JSON of every turn up to that question (`lisa/dialogue.py`)
EXPERTS = Tensor("experts", "STRING", (1,))  # JSON list, as in the report
ANSWER_TEXT = Tensor("answer", "STRING", (1,))  # UTF-8, without [SEG]
EXPERT_MAP = Tensor("expert_map", "UINT8", (-1, -1))  # HEATMAP again: Triton gives no output alone that a step reads, too
FINDING = Tensor("finding", "STRING", (1,))  # JSON: all of the report that is known before the sentence
SEG_EMBEDDINGS = Tensor("seg_embeddings", "FP32", (1, -1, -1))  # [1, K, E]; unused slots are zero rows
SEG_COUNT = Tensor("seg_count", "INT32", (1,))
SEG_PROBABILITY = Tensor("seg_probability", "FP32", (1,))  # of [SEG], by LISA alone; -1 where the checkpoint has no verdict
TOKENS = Tensor("tokens", "INT32", (1,))
DEFECT_MASKS = Tensor("defect_masks", "FP32", (1, -1, -1, -1))  # LISA's low_res_masks, logits [1, K, M, M]
DEFECT_IOUS = Tensor("defect_ious", "FP32", (1, -1))
MASK_NS = Tensor("mask_ns", "INT64", (1,), optional=True)  # when the masks left in an earlier response of a stream
STATUS = Tensor("status", "STRING", (1,))  # of the engine: empty, or one line `CODE: message`
STREAM = Tensor("stream", "INT32", (1,), optional=True)  # 1: a response per piece of text
LOOK = Tensor("look", "INT32", (1,), optional=True)  # 1: with a verdict, answer the first question by [SEG]'s vector and probability only

CLOCKS = tuple(
    clock(step)
    for step in (
        "decode",
        "sam_encoder",
        "sam_decoder",
        "cutout",
        "vision_encoder",
        "expert",
        "lisa",
        "lisa_decoder",
        "verdict",
        "explain",
    )
)
ENGINES_WITH_CLOCK = ("sam_encoder", "sam_decoder", "vision_encoder", "lisa_decoder")  # only where they run as Python

LOW_RES_MASKS = Tensor("low_res_masks", "FP32", (-1, -1, -1))  # [P or K, M, M]
IOU_PREDICTIONS = Tensor("iou_predictions", "FP32", (-1,))  # [P or K]

# A machine loads the profiles within its largest batch (`machines.py`), and each one costs GPU memory for its largest shape.
BATCHES: tuple[dict[str, Range], ...] = ({"batch": (1, 1, 1)}, {"batch": (2, 2, 2)}, {"batch": (3, 8, 8)}, {"batch": (9, 16, 16)})
_FEW_OR_MANY: tuple[dict[str, Range], ...] = ({"batch": (1, 1, 2)}, {"batch": (3, 8, 8)})
_BOX: dict[str, Range] = {"prompts": (1, 1, 1), "points": (2, 2, 2)}  # one point and its padding is two as well
_SEVERAL: dict[str, Range] = {"prompts": (1, 4, 8), "points": (2, 2, 16)}
_POINTS: dict[str, Range] = {"prompts": (1, 1, 1), "points": (3, 8, MAX_POINTS + 2)}  # with a box

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            "decode",
            inputs=(*REQUEST, POINTS),
            outputs=(TICKET, SAM_PIXELS, RESIZED_SIZE, ORIGINAL_SIZE, PART_BOX, POINT_COORDS, POINT_LABELS,
            PART_PIXELS, PIXELS, clock("decode")),
            max_queue_size=IN_FLIGHT_LIMIT,  # of those not even looked at yet: a crowd beyond it Triton itself refuses, at once
        ),
        Model(
            "sam_encoder",
            inputs=(batched(SAM_PIXELS), batched(RESIZED_SIZE)),
            outputs=(batched(IMAGE_EMBEDDING),),
            max_batch_size=8,
            engine=True,
            cached=True,
            real_dims={"sam_pixels": (3, 1024, 1024), "resized_size": (2,), "image_embedding": (256, 64, 64)},
            ranges=BATCHES,
        ),
        Model(
            "sam_decoder",
            inputs=(batched(IMAGE_EMBEDDING), batched(POINT_COORDS), batched(POINT_LABELS)),
            outputs=(LOW_RES_MASKS, IOU_PREDICTIONS),
            max_batch_size=8,
            engine=True,
            cached=True,
            real_dims={
                "image_embedding": (256, 64, 64), "point_coords": ("prompts", "points", 2), "point_labels": ("prompts", "points"),
                "low_res_masks": ("prompts", 256, 256), "iou_predictions": ("prompts",),
            },
            ranges=(*(b | _BOX for b in BATCHES[:3]), *(b | kind for kind in (_SEVERAL, _POINTS) for b in _FEW_OR_MANY)),
        ),
        Model(
            "cutout",
            inputs=(optional(PART_PIXELS), optional(PIXELS), PART_MASKS, PART_IOUS, RESIZED_SIZE, ORIGINAL_SIZE, PART_BOX, RELEASE),
            outputs=(VISION_PIXELS, MASK, IOU, CUTOUT, clock("cutout")),
        ),
        Model(
            "vision_encoder",
            inputs=(batched(VISION_PIXELS),),
            outputs=(batched(IMAGE_FEATURES), batched(PATCH_FEATURES), batched(PICTURE_EVIDENCE)),
            max_batch_size=8,
            engine=True,
            cached=True,
            real_dims={
                "vision_pixels": (3, 224, 224), "image_features": (256, 1024), "patch_features": (256, 4096), "picture_evidence": (2,),
            },
            ranges=BATCHES,
        ),
        Model(
            "expert",
            inputs=(PATCH_FEATURES, ORIGINAL_SIZE, PART_BOX, PROMPT, PRODUCT, REFERENCE, EXPERT, HISTORY, TICKET),
            outputs=(QUESTION, DIALOGUE, EXPERTS, EXPERT_MAP, HEATMAP, clock("expert")),
        ),
        Model(
            "lisa",
            inputs=(IMAGE_FEATURES, DIALOGUE, MAX_TOKENS, TICKET),
            outputs=(ANSWER_TEXT, SEG_EMBEDDINGS, SEG_COUNT, SEG_PROBABILITY, TOKENS, clock("lisa")),
        ),
        Model(
            "lisa_engine",
            inputs=(IMAGE_FEATURES, DIALOGUE, MAX_TOKENS, TICKET, STREAM, LOOK, optional(FINDING)),
            outputs=(ANSWER_TEXT, SEG_EMBEDDINGS, SEG_COUNT, SEG_PROBABILITY, TOKENS, STATUS, clock("lisa")),
            decoupled=True,
            gpu=True,
        ),
        Model(
            "lisa_decoder",
            inputs=(batched(IMAGE_EMBEDDING), batched(SEG_EMBEDDINGS)),
            outputs=(LOW_RES_MASKS, IOU_PREDICTIONS),
            max_batch_size=8,
            engine=True,
            cached=True,
            real_dims={
                "image_embedding": (256, 64, 64), "seg_embeddings": (SEG_SLOTS, 256),
                "low_res_masks": (SEG_SLOTS, 256, 256), "iou_predictions": (SEG_SLOTS,),
            },
            ranges=BATCHES[:3],
        ),
        Model(
            "verdict",
            inputs=(
                SEG_COUNT, SEG_PROBABILITY, DEFECT_MASKS, DEFECT_IOUS, PICTURE_EVIDENCE, EXPERTS, EXPERT_MAP,
                PART_MASKS, PART_IOUS, ORIGINAL_SIZE, RESIZED_SIZE, PART_BOX, TICKET,
            ),
            outputs=(FINDING, SCORE, MASK, clock("verdict")),
        ),
        Model(
            "explain",
            inputs=(IMAGE_FEATURES, DIALOGUE, MAX_TOKENS, ANSWER_TEXT, TOKENS, FINDING, TICKET),
            outputs=(ANSWER_TEXT, TOKENS, clock("explain")),
        ),
        Model(
            "report",
            inputs=(FINDING, ANSWER_TEXT, TOKENS, QUESTION, EXPERTS, *map(optional, CLOCKS), MASK_NS, RELEASE),
            outputs=(REPORT, TEXT),
        ),
        Model("inspect_stream", inputs=REQUEST, outputs=ANSWER, decoupled=True),
        Model(
            "products",
            inputs=(
                Tensor("ACTION", "STRING", (1,)), Tensor("NAME", "STRING", (1,), optional=True),
                Tensor("IMAGES", "STRING", (-1,), optional=True), Tensor("DESCRIPTION", "STRING", (1,), optional=True), PROMPT, BOX,
            ),
            outputs=(REPORT,),
        ),
    )
}  # fmt: skip

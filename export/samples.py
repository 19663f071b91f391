"""What the bits are chosen and judged by: questions about real pictures with answers as LISA gives them, and a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image
from sightline_ensemble.artefacts import Manifest
from sightline_ensemble.contract import DEFAULT_PROMPT, SEG_SLOTS
from sightline_ensemble.cutout import vision_pixels
from sightline_ensemble.lisa.prompt import Prompter
from sightline_ensemble.onnx import defects
from sightline_ensemble.picture import sam_pixels, sam_size
from torch import Tensor

from .figures import Masks
from .parity import session
from .pictures import real_images
from .streams import Sample

HELD_OUT = 4  # of the pictures
MOST = 768  # tokens of the text

# In the forms of LISA's training (dvlab-research/LISA, utils/utils.py), and with an expert's hint as this server adds it.
DIALOGUES = (
    ("Can you segment the defect in this image?", "Sure, it is [SEG]."),
    ("Please segment the scratch in this image.", "It is [SEG]."),
    ("What is damaged in this image? Please respond with segmentation mask.", "Sure, the segmentation result is [SEG]."),
    (
        "Where is the part that a customer would send back? Please output segmentation mask and explain why.",
        "It is [SEG]. The dark line crosses the cell from one busbar to the next, which cuts the current off and lowers the yield.",
    ),
    ("Is every hole of this plate drilled? Please respond with segmentation mask.", "Sure, [SEG]."),
    (
        "According to experts, there is an anomaly at the bottom left of the image. Is there any defect in the object? "
        "If yes describe it and explain and give a segmentation mask.",
        "Yes, there is a crack at the bottom left, [SEG]. Its edges are sharp and it branches once.",
    ),
    ("Which side of the bottle is chipped, and what else is wrong?", "The chip is [SEG] and the stain is [SEG]."),
    ("Can you segment the object that stands apart from the others in this image?", "Sure, it is [SEG]."),
)
JUDGED = (
    (DEFAULT_PROMPT, "[SEG] Yes, there is an anomaly in the image, at the top right of the image."),
    ("Can you segment the crack in this image?", "Sure, it is [SEG]."),
    (
        "What looks worn in this image? Please output segmentation mask and give some explanation.",
        "The worn place is [SEG]. The coating is rubbed off where the clamp holds the part, so that the metal shines through.",
    ),
    ("Which two things are broken here? Please respond with segmentation mask.", "They are [SEG] and [SEG]."),
)
TEXT = (
    "The night shift begins at ten. Before the first pallet is opened, someone walks along the line with a cloth and wipes the glass "
    "in front of each camera, because a single fingerprint looks much like a stain on the product and will stop the belt for nothing. "
    "The lamps are left to warm up for a quarter of an hour; a cold lamp is a little redder than a warm one, and the software that "
    "compares today's parts with last week's would notice. Then a tray of known parts goes through, twelve good ones and three that "
    "were spoiled on purpose: one with a scratch, one with a missing screw, one that was painted twice. If the three are found and "
    "the twelve are passed, the line is released and the counter is set to zero.\n"
    "Most of what goes wrong after that is small. A nozzle drips, and every fortieth lid carries a bead of glue the size of a lentil. "
    "A bearing wears out, and the edges of the cut sheets become rough, first on the left side only. Such things are rarely seen "
    "in one picture. They are seen when somebody looks at the pictures of an hour side by side and asks what has changed. For this "
    "reason the station keeps everything, the good parts as well as the bad ones, for thirty days, and draws a curve of how far each "
    "part was from the ordinary. A curve that rises slowly is worth more than an alarm.\n"
    "People sometimes ask whether the machine will replace the inspectors. So far it has changed what they do. They used to look at "
    "nine thousand lids in a shift, and by the end of it they saw lids when they closed their eyes. Now they look at sixty, the ones "
    "about which the machine is in doubt, and they write down in a sentence what they see and why it matters. Those sentences are "
    "read by the people who build the presses, who had never been told before why a lid was thrown away, and the next press has a "
    "wider channel for the glue."
)  # written for this file: no model has learned it by heart


@dataclass(frozen=True)
class Eyes:
    """The picture's side of a profile as ONNX graphs: what LISA sees, and the masks of what it says. Manifests' dims beside them."""

    vision: Path
    vision_dims: dict[str, object]
    sam: Path
    sam_dims: dict[str, object]
    decoder: Path

    @classmethod
    def of(cls, vision: Manifest, sam: Manifest, decoder: Manifest) -> Eyes:
        """Of an installed profile."""
        graphs = [manifest.path("model.onnx") for manifest in (vision, sam, decoder)]
        return cls(graphs[0], dict(vision.dims), graphs[1], dict(sam.dims), graphs[2])


@dataclass(frozen=True)
class Judge:
    """Samples to learn from and to judge by; `masks` of `[SEG]` vectors on the latter's pictures."""

    calibration: list[Sample]
    held_out: list[Sample]
    masks: Masks


def judge(eyes: Eyes, prompter: Prompter, pictures: int, folder: Path | None = None, calibrate: bool = True) -> Judge:
    """Of `pictures` real ones the last four are held out; NoPictures where there are not so many."""
    images = [image for _, image in real_images(pictures, folder)]
    learned, judged = (images[:-HELD_OUT] if calibrate else []), images[-HELD_OUT:]
    runner = session(eyes.vision)

    def features(image: Image.Image) -> np.ndarray:
        return runner.run(["image_features"], {"vision_pixels": vision_pixels(np.asarray(image), eyes.vision_dims)})[0][0]

    calibration = [sample(prompter, *DIALOGUES[i % len(DIALOGUES)], features(image), i) for i, image in enumerate(learned)]
    held_out = [sample(prompter, *JUDGED[i % len(JUDGED)], features(image), i) for i, image in enumerate(judged)]
    return Judge(calibration, [*held_out, text(prompter)], _masks(eyes, judged))


def _masks(eyes: Eyes, images: list[Image.Image]) -> Masks:
    encoder, decoder, side = session(eyes.sam), session(eyes.decoder), int(eyes.sam_dims["image_size"])  # type: ignore[call-overload]
    embeddings = []
    for image in images:
        resized = np.array([sam_size(image.height, image.width, side)], np.int32)
        embeddings.append(encoder.run(["image_embedding"], {"sam_pixels": sam_pixels(image, side), "resized_size": resized})[0])
    names = [output.name for output in decoder.get_outputs()]
    slots = next(tensor.shape[1] for tensor in decoder.get_inputs() if tensor.name == "seg_embeddings")
    run = defects(lambda inputs: dict(zip(names, decoder.run(names, inputs), strict=True)), slots if isinstance(slots, int) else None)

    def masks(picture: int, vectors: Tensor) -> np.ndarray:
        padded = F.pad(vectors, (0, 0, 0, max(SEG_SLOTS - len(vectors), 0))).numpy()[None]
        return run({"image_embedding": embeddings[picture], "seg_embeddings": padded})["low_res_masks"][0, : len(vectors)] > 0

    return masks


def sample(prompter: Prompter, question: str, answer: str, features: np.ndarray, picture: int) -> Sample:
    prompt = prompter.build(question, (), len(features))
    parts = [part for part in re.split(r"(\[SEG\])", answer) if part]
    ids = [token for part in parts for token in ([prompter.config.seg] if part == "[SEG]" else prompter.text(part))]
    return Sample([*prompt, *ids, prompter.config.eos[0]], len(prompt), features, picture)


def text(prompter: Prompter) -> Sample:
    """The text, as the answer to a question without a picture."""
    prompt = prompter.build("How is a product inspected?", (), 0)
    return Sample([*prompt, *prompter.text(TEXT)[: min(MOST, prompter.config.context - len(prompt))]], len(prompt))

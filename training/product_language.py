"""Fourth stage of `sightline_training.products`: the language model reads the new picture tokens, answers in AnomalyGPT's words.

Few steps, from the shipped adapter: 30 layers in the loop cost seconds a step on two cores. What few steps leave undone, the
verdict's row makes good: it is fitted by logistic regression to the last hidden states of the training pictures.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from sightline_ensemble.contract import DEFAULT_PROMPT
from sightline_export.smollm2 import read_delta
from sightline_export.tiny import WEIGHTS
from sightline_export.tiny_vision import TOKEN_STRIDES, TokenNeck
from sightline_training.features import VISION_SIDE
from sightline_training.language import Example, Student
from sightline_training.product_data import FLIPS, Pictures
from sightline_training.product_vision import step
from sightline_training.product_words import answer, places, question
from sightline_training.prompts import Prompter
from sightline_training.vision import Pyramids
from torch import Tensor

STEPS, RATE = 90, 5e-4
BATCH = 4  # of either, normal and defective


class Examples:
    """Questions about the pictures of one set."""

    def __init__(self, out: Path, name: str, prompts: Prompter) -> None:
        self.neck = TokenNeck()
        self.neck.load_state_dict(torch.load(out / "vision.pt", weights_only=True))
        self.neck.eval()
        self.pictures, self.pyramids = Pictures(out, name), Pyramids(out, name, VISION_SIDE, TOKEN_STRIDES)
        self.prompts = prompts

    def tokens(self, rows: np.ndarray, flips: tuple[int, ...] = ()) -> Tensor:
        with torch.inference_mode():
            return self.neck(self.pyramids.batch(rows, flips))[0].clone()

    def drawn(self, rng: np.random.Generator) -> list[Example]:
        """A batch to learn from: half normal, half defective, all in the same view."""
        groups = [np.flatnonzero(~self.pictures.defective), np.flatnonzero(self.pictures.defective)]
        rows, flips = np.concatenate([rng.choice(group, BATCH) for group in groups]), FLIPS[rng.integers(len(FLIPS))]
        found = []
        for tokens, i in zip(self.tokens(rows, flips), rows, strict=True):
            mask, row = self.pictures.squashed[i].any(0), self.pictures.rows[i]
            where = places(np.flip(mask, flips) if flips else mask) if row.defective else []
            found.append(self.example(tokens, question(rng, row.product, where, row.defective), where, row.defective))
        return found

    def example(self, tokens: Tensor, text: str, where: list[str], defective: bool) -> Example:
        prompt = self.prompts.question(text, len(tokens))
        return Example(tokens, prompt, self.prompts.reply(answer(where)), 0, float(defective), 1.0)

    def plain(self, rows: np.ndarray) -> list[Example]:
        """The default question about some pictures."""
        return [self.example(tokens, DEFAULT_PROMPT, [], False) for tokens in self.tokens(rows)]


def load_student(prompts: Prompter, weights: Path) -> Student:
    """The language model with an adapter as a delta file has it."""
    student = Student(prompts)
    delta, _ = read_delta(weights / "language.safetensors")
    left = student.llama.load_state_dict({name: value.float() for name, value in delta.items()}, strict=False)
    assert not left.unexpected_keys, left.unexpected_keys
    return student


def train_language(out: Path, seed: int, steps: int = STEPS, weights: Path = WEIGHTS) -> None:
    """Writes language.pt: adapter, projector, `[SEG]` row."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    prompts = Prompter()
    student, examples, no = load_student(prompts, weights), Examples(out, "train", prompts), prompts.reply("No")[0]
    optimiser = torch.optim.AdamW([*student.trainable().values(), *student.asked.parameters()], RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps, pct_start=0.1)
    start, losses = time.monotonic(), []
    for number in track(range(1, steps + 1), description="language"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = student.loss(examples.drawn(rng), no)
        losses.append(step(optimiser, schedule, loss))
        if number % 10 == 0 or number == steps:
            print(f"step {number}/{steps} loss {np.mean(losses[-10:]):.3f} {(time.monotonic() - start) / number:.2f} s a step", flush=True)
    torch.save({name: parameter.detach() for name, parameter in student.trainable().items()}, out / "language.pt")


@torch.inference_mode()
def ends(student: Student, examples: Examples, rows: np.ndarray) -> Tensor:
    """Hidden states [N, H] at the end of the default question about some pictures: there the verdict is read."""
    found = []
    for part in track(np.array_split(rows, max(1, len(rows) // 8)), description="hidden states"):
        asked = examples.plain(part)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = student.hidden(asked, with_reply=False)
        found.append(hidden[torch.arange(len(asked)), torch.tensor([len(one.prompt) - 1 for one in asked])])
    return torch.cat(found)

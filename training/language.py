"""Teaches the language model its picture tokens, its adapter and `[SEG]`.

Real cells of the training part teach the verdict (their labels) and, with places read off the token neck's own map, the
sentence; simulated defects teach kinds, places and questions about one kind. Hints of a simulated expert, right more often
than wrong, are mixed in so that the model weighs them instead of copying them. `python -m sightline_training.language`
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sightline_ensemble.contract import LOCATIONS
from sightline_ensemble.hint import sentence
from sightline_export.smollm2 import base_model
from sightline_export.tiny_vision import KINDS as KIND_COUNT
from sightline_export.tiny_vision import TOKEN_STRIDES, TOKEN_WIDTH, TokenNeck
from sightline_training.data import cells
from sightline_training.features import VISION_SIDE
from sightline_training.prompts import Prompter
from sightline_training.simulate import KINDS
from sightline_training.vision import Pyramids
from sightline_training.wording import CALLERS_HINTS, Finding, answer, finding, question
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

RANK, TARGETS = 16, ("qkv", "o")
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-1, -2))
BATCH_REAL, BATCH_SYNTH = 4, 4
EMPHASIS = {6.0: (" top", " bottom", " left", " right", " center"), 3.0: (" crack", " inactive", " finger")}
PAD = 0


@dataclass(frozen=True)
class Example:
    """One question about one picture. `asked`: 0 any defect, else 1 + kind. `weight` of the sentence after the verdict."""

    tokens: Tensor  # [T, C]
    prompt: list[int]  # -1 where a picture token goes
    reply: list[int]  # without [SEG]
    asked: int
    defective: float  # 0..1
    weight: float


class Pictures:
    """Picture tokens of one set in up to four views, and what each view shows."""

    def __init__(self, neck: TokenNeck, pyramids: Pyramids, truth: np.ndarray | None, views: int) -> None:
        """truth: bool [N, kinds, M, M] of simulated defects; None: read off the neck's own map."""
        tokens, maps = [], []
        for flips in FLIPS[:views]:
            parts = [neck(pyramids.batch(rows, flips)) for rows in np.array_split(np.arange(len(pyramids)), max(1, len(pyramids) // 32))]
            tokens.append(torch.cat([part[0] for part in parts]))
            if truth is None:
                maps.append(np.concatenate([read_kinds(part[1]) for part in parts]))
            else:
                maps.append(np.flip(truth, flips) if flips else truth)
        self.tokens = torch.stack(tokens)  # [views, N, T, C]
        self.findings = [[finding(mask) for mask in view] for view in maps]


def read_kinds(logits: Tensor) -> np.ndarray:
    """The neck's map [B, 4, 64, 64] -> one kind's mask a picture: the brightest half percent, the kind most sure of itself there."""
    any_defect = logits[:, 0].flatten(1)
    limit = any_defect.topk(20, dim=1).values[:, -1:]
    bright = (any_defect >= limit).view_as(logits[:, 0])
    sure = (logits[:, 1:] * bright.unsqueeze(1)).sum((2, 3)).argmax(1)
    masks = torch.zeros_like(logits[:, 1:], dtype=torch.bool)
    masks[torch.arange(len(logits)), sure] = bright
    return masks.numpy()


class Examples:
    """Draws training examples."""

    def __init__(self, folder: Path, prompts: Prompter, rng: np.random.Generator, views: int = len(FLIPS)) -> None:
        neck = TokenNeck()
        neck.load_state_dict(torch.load(folder / "vision.pt", weights_only=True)["neck"])
        neck.eval()
        truth = np.unpackbits(np.load(folder / "synth_masks.npy"), axis=-1).astype(bool)
        with torch.inference_mode():
            self.real = Pictures(neck, Pyramids(folder, "real", VISION_SIDE, TOKEN_STRIDES), None, views)
            self.synth = Pictures(neck, Pyramids(folder, "synth", VISION_SIDE, TOKEN_STRIDES), truth, views)
        self.labels = np.array([cell.probability for cell in cells("train") + cells("val")])
        self.n_train, self.n_synth = len(cells("train")), len(truth) - 200
        train_labels = self.labels[: self.n_train]
        self.groups = [np.flatnonzero(train_labels < 0.5), np.flatnonzero(train_labels >= 0.5)]  # the verdict is calibrated afterwards
        self.prompts, self.rng, self.views = prompts, rng, views

    def example(
        self, pictures: Pictures, view: int, i: int, text: str, found: Finding, asked: int, defective: float, weight: float
    ) -> Example:
        reply = self.prompts.reply(answer(found, KINDS[asked - 1] if asked else None))
        return Example(pictures.tokens[view, i], self.prompts.question(text, pictures.tokens.shape[2]), reply, asked, defective, weight)

    def drawn_real(self, i: int) -> Example:
        view, probability = int(self.rng.integers(self.views)), float(self.labels[i])
        found = self.real.findings[view][i] if probability >= 0.5 else Finding(())
        asked = int(self.rng.integers(1, 1 + KIND_COUNT)) if probability == 0 and self.rng.random() < 0.15 else 0
        text = question(self.rng, KINDS[asked - 1] if asked else None)
        text = self.with_hint(text, self.real.findings[view][i], probability) if not asked else text
        return self.example(self.real, view, i, text, found, asked, probability, 1.0 if probability in (0.0, 1.0) else 0.3)

    def drawn_synth(self, i: int) -> Example:
        view = int(self.rng.integers(self.views))
        found = self.synth.findings[view][i]
        asked = int(self.rng.integers(1, 1 + KIND_COUNT)) if self.rng.random() < 0.5 else 0
        text = question(self.rng, KINDS[asked - 1] if asked else None)
        if asked:
            found = found.only(KINDS[asked - 1])
        else:
            text = self.with_hint(text, found, 1.0)
        return self.example(self.synth, view, i, text, found, asked, float(bool(found.kinds)), 1.0)

    def with_hint(self, text: str, found: Finding, defective: float) -> str:
        """Sometimes an expert speaks first: its score leans to the truth, its place mostly is right."""
        if self.rng.random() > 0.3:
            return text
        score = float(np.clip(self.rng.normal(0.35 + 0.3 * defective, 0.22), 0.01, 0.99))
        right = found.kinds and self.rng.random() < 0.8
        said = sentence(score, [found.kinds[0][1] if right else str(self.rng.choice(LOCATIONS))])
        if self.rng.random() < 0.2:
            said = f"{said} {self.rng.choice(CALLERS_HINTS)}"
        return f"{said} {text}"

    def batch(self) -> list[Example]:
        real = np.concatenate([self.rng.choice(group, BATCH_REAL // 2, replace=False) for group in self.groups])
        synth = self.rng.choice(self.n_synth, BATCH_SYNTH, replace=False)
        return [self.drawn_real(int(i)) for i in real] + [self.drawn_synth(int(i)) for i in synth]


class Student(nn.Module):
    """The language model with its adapter, and a linear reader that makes the prompt's last vector say what was asked."""

    def __init__(self, prompts: Prompter) -> None:
        super().__init__()
        # Two words of a sentence say where and what; unweighted, the loss is about the others.
        self.emphasis = {prompts.reply(word)[0]: weight for weight, words in EMPHASIS.items() for word in words}
        self.llama = base_model(torch.bfloat16, rank=RANK, targets=TARGETS, image_width=TOKEN_WIDTH)
        self.asked = nn.Linear(self.llama.config.hidden_size, 1 + KIND_COUNT)
        self.seg = self.llama.config.seg

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.llama.named_parameters() if parameter.requires_grad}

    def hidden(self, examples: list[Example], with_reply: bool = True) -> Tensor:
        """fp32 hidden states [B, L, H] of prompt, [SEG] where the picture is defective, and reply; padded on the right."""
        rows = [sequence(example, self.seg) if with_reply else example.prompt for example in examples]
        length = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
        embeds = self.llama.embed(ids.clamp(min=0))
        pictures = self.llama.project(torch.stack([example.tokens for example in examples]))
        embeds[ids == -1] = pictures.flatten(0, 1).to(embeds.dtype)
        return self.llama.forward_train(embeds).float()

    def loss(self, examples: list[Example], no: int) -> Tensor:
        hidden = self.hidden(examples)
        ends = torch.tensor([len(example.prompt) - 1 for example in examples])
        last = hidden[torch.arange(len(examples)), ends]
        soft = torch.tensor([example.defective for example in examples])
        verdict = self.verdict(last, no)
        asked = torch.tensor([example.asked for example in examples])
        loss = F.binary_cross_entropy_with_logits(verdict, soft) + 0.2 * F.cross_entropy(self.asked(last), asked)
        states, targets, weights = [], [], []
        for i, example in enumerate(examples):
            row = sequence(example, self.seg)
            start = len(row) - len(example.reply)  # the first word after [SEG] is forced, and "No" is the verdict's
            states.append(hidden[i, start : len(row) - 1])
            targets += row[start + 1 :]
            weights += [example.weight * self.emphasis.get(token, 1.0) for token in row[start + 1 :]]
        logits, weight = self.llama.logits(torch.cat(states)), torch.tensor(weights)
        words = F.cross_entropy(logits, torch.tensor(targets), reduction="none")
        return loss + (words * weight).sum() / weight.sum()

    def verdict(self, last: Tensor, no: int) -> Tensor:
        """logit of [SEG] minus logit of "No" at the end of the prompt: hidden [B, H] -> [B]."""
        seg_row = self.llama.added_head[self.seg - self.llama.config.vocab_size]
        return last @ (seg_row - self.llama.head.weight[no].float())


def sequence(example: Example, seg: int) -> list[int]:
    """Prompt, then [SEG] where the reply says yes, then the reply."""
    return [*example.prompt, *([seg] if example.defective >= 0.5 else []), *example.reply]


@torch.inference_mode()
def validate(student: Student, examples: Examples, no: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdict logits and labels of the validation part, default question."""
    logits = []
    for rows in np.array_split(np.arange(examples.n_train, len(examples.labels)), 14):
        found = [
            examples.example(examples.real, 0, int(i), question(np.random.default_rng(0), None), Finding(()), 0, 0.0, 1.0) for i in rows
        ]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = student.hidden(found, with_reply=False)
        last = hidden[torch.arange(len(found)), torch.tensor([len(example.prompt) - 1 for example in found])]
        logits.append(student.verdict(last, no))
    return torch.cat(logits).numpy(), examples.labels[examples.n_train :]


def train(folder: Path, steps: int, seed: int, views: int, start_from: Path | None) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    prompts = Prompter()
    student, examples = Student(prompts), Examples(folder, prompts, rng, views)
    if start_from is not None:
        student.llama.load_state_dict(torch.load(start_from, weights_only=True), strict=False)
    no = prompts.reply("No")[0]
    groups = [
        {"params": [p for name, p in student.trainable().items() if "lora" in name], "lr": 1e-3},
        {"params": [p for name, p in student.trainable().items() if "lora" not in name] + list(student.asked.parameters()), "lr": 1e-3},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [1e-3, 1e-3], steps, pct_start=0.1)
    start, average = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        with torch.autocast("cpu", torch.bfloat16):
            loss = student.loss(examples.batch(), no)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average = 0.95 * average + 0.05 * loss.item()
        if step % 10 == 0:
            print(f"step {step}/{steps} loss {average / (1 - 0.95**step):.3f} {(time.monotonic() - start) / step:.2f} s a step", flush=True)
        if step % 100 == 0 or step == steps:
            logits, labels = validate(student, examples, no)
            truth = labels >= 0.5
            print(f"val AUROC {roc_auc_score(truth, logits):.4f} accuracy {((logits > 0) == truth).mean():.4f}", flush=True)
            torch.save({name: parameter.detach() for name, parameter in student.trainable().items()}, folder / "language.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/train"))
    parser.add_argument("--steps", type=int, default=620)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--views", type=int, default=len(FLIPS), help="flips of every picture (default: %(default)s)")
    parser.add_argument("--start-from", type=Path, help="a language.pt to go on from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.data, arguments.steps, arguments.seed, arguments.views, arguments.start_from)

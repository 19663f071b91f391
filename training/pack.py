"""Last step: fits the `[SEG]` head to the prompt vectors of the trained decoder, calibrates the verdict, writes the deltas.

`python -m sightline_training.pack` reads build/train/{vision,sam,language}.pt and writes training/weights/*.safetensors (fp16),
which is all that the repository keeps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sightline_export.tiny import WEIGHTS
from sightline_export.tiny_vision import TOKEN_WIDTH
from sightline_training.language import Examples, Student, validate
from sightline_training.prompts import Prompter
from sklearn.linear_model import LogisticRegression
from torch import Tensor


@torch.inference_mode()
def prompt_ends(student: Student, examples: Examples, count: int) -> tuple[Tensor, Tensor]:
    """Hidden states [N, H] at the ends of training prompts, which predict `[SEG]`, and what each asked for [N]."""
    hidden, asked = [], []
    while len(asked) < count:
        batch = examples.batch()
        with torch.autocast("cpu", torch.bfloat16):
            states = student.hidden(batch, with_reply=False)
        hidden.append(states[torch.arange(len(batch)), torch.tensor([len(example.prompt) - 1 for example in batch])])
        asked += [example.asked for example in batch]
    return torch.cat(hidden), torch.tensor(asked)


def fit_seg_head(student: Student, hidden: Tensor, asked: Tensor, prompts: Tensor) -> float:
    """`text_hidden_fcs` [H] -> [256] towards the decoder's prompt vector of what was asked; returns the held-out relative error."""
    head, held_out = student.llama.text_hidden_fcs.float(), len(hidden) // 8
    head[2].bias.data.copy_(prompts.mean(0))
    optimiser = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=0.01)
    target = prompts[asked]
    for _ in range(400):
        rows = torch.randint(held_out, len(hidden), (128,))
        loss = F.mse_loss(head(hidden[rows]), target[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        error = (head(hidden[:held_out]) - target[:held_out]).norm() / target[:held_out].norm()
    return float(error)


def calibrate(logits: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Platt scaling (1999) on the validation part: scale and bias, so that 0.5 is the decision."""
    truth = probabilities >= 0.5
    fitted = LogisticRegression(C=1.0).fit(logits[:, None], truth)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().half().contiguous() for name, value in state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/train"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--states", type=int, default=480, help="prompts that the [SEG] head is fitted to (default: %(default)s)")
    arguments = parser.parse_args()
    folder, out = arguments.data, arguments.out
    torch.set_num_threads(2)
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    sam = torch.load(folder / "sam.pt", weights_only=True)["model"]
    prompts = sam.pop("seg_prompts")
    save_file(half(sam), out / "sam.safetensors")
    save_file(half(torch.load(folder / "vision.pt", weights_only=True)["neck"]), out / "vision.safetensors")

    prompter = Prompter()
    student = Student(prompter)
    missing = student.llama.load_state_dict(torch.load(folder / "language.pt", weights_only=True), strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    examples = Examples(folder, prompter, np.random.default_rng(1), views=1)
    yes, no = prompter.reply("Yes")[0], prompter.reply("No")[0]
    error = fit_seg_head(student, *prompt_ends(student, examples, arguments.states), prompts)
    logits, labels = validate(student, examples, no)
    scale, bias = calibrate(logits, labels)
    verdict = {"seg": student.seg, "no": no, "yes": yes, "scale": scale, "bias": bias}
    metadata = {"verdict": json.dumps(verdict), "image_width": str(TOKEN_WIDTH)}
    save_file(half(student.trainable()), out / "language.safetensors", metadata=metadata)
    accuracy = ((scale * logits + bias >= 0) == (labels >= 0.5)).mean()
    print(f"[SEG] head: relative error {error:.3f} | verdict {verdict} | validation accuracy {accuracy:.4f}")
    print({path.name: path.stat().st_size for path in sorted(out.glob("*.safetensors"))})


if __name__ == "__main__":
    main()

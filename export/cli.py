"""`sightline-export`: checkpoints in, artefacts out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightline_ensemble.artefacts import ArtefactError
from sightline_ensemble.configs import PRODUCTION_PROFILE
from sightline_ensemble.contract import Range

if TYPE_CHECKING:
    from .sam import Order

PRECISIONS = ("fp32", "fp16", "bf16")
BITS = (4, 8, 16, 32)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="sightline-export", description="Turns checkpoints into the artefacts that model_repository/ loads.")
    commands = top.add_subparsers(dest="command", required=True)
    _tiny(commands.add_parser("tiny", help="the embedded profile: real, trained weights for the CPU, no download"))
    _sam(commands.add_parser("sam", help="a released SAM checkpoint: sam_encoder and sam_decoder, proved equal to it"))
    _lisa(commands.add_parser("lisa", help="a released LISA with its CLIP: a whole profile, and what its bits cost"))
    _bits(commands.add_parser("bits", help="what 16, 8 and 4 bits cost the tiny profile's language model"))
    _parity(commands.add_parser("parity", help="judges installed SAM artefacts against their checkpoint again"))
    _engine(commands.add_parser("engine", help="TensorRT plans from a profile's ONNX graphs, for the GPU of this machine"))
    return top


def _repository(command: argparse.ArgumentParser, profile: str | None) -> None:
    command.add_argument("--repository", type=Path, default=Path("model_repository"), help="where the artefacts go (default: %(default)s)")
    known = f"(default: {profile or 'the only one there is'})"
    command.add_argument("--profile", default=profile, help=f"the name under which sightline-serve finds them {known}")


# torch and TensorRT are slow to import: --help should not wait for them.
def _tiny(command: argparse.ArgumentParser) -> None:
    def run(chosen: argparse.Namespace) -> None:
        from .tiny import WEIGHTS, export_tiny

        export_tiny(chosen.repository, chosen.profile, chosen.weights or WEIGHTS)

    command.set_defaults(run=run)
    _repository(command, "tiny")
    command.add_argument("--weights", type=Path, metavar="DIR", help="trained deltas (default: the ones this repository ships)")


def _sam(command: argparse.ArgumentParser) -> None:
    def run(chosen: argparse.Namespace) -> None:
        from .sam import export_sam

        export_sam(_order(chosen, {*chosen.precision, PRECISIONS[0]}))

    command.set_defaults(run=run)
    _sam_options(command, "fp32 always, and each half type asked for, with as little in fp32 as its bar allows")


def _lisa(command: argparse.ArgumentParser) -> None:
    def run(chosen: argparse.Namespace) -> None:
        from .lisa import Order, export_lisa

        names = ("checkpoint", "clip", "bits", "repository", "profile", "sam_checkpoint", "group", "pictures", "images", "csv")
        export_lisa(Order(**{name: getattr(chosen, name) for name in names}))

    command.set_defaults(run=run)
    _repository(command, PRODUCTION_PROFILE)
    add = command.add_argument
    add("--checkpoint", required=True, type=Path, metavar="DIR", help="the folder as released")
    add("--clip", required=True, type=Path, metavar="DIR", help="the folder of the CLIP it was trained with")
    add("--sam-checkpoint", type=Path, metavar="FILE", help="the released SAM: its encoder is shared where LISA's is the same")
    add("--bits", type=int, default=4, choices=BITS, help="of the language model's linear layers (default: %(default)s)")
    _bits_options(command, 128)


def _bits(command: argparse.ArgumentParser) -> None:
    def run(chosen: argparse.Namespace) -> None:
        from .smollm2_bits import Order, compare

        compare(Order(**{name: getattr(chosen, name) for name in ("repository", "profile", "group", "pictures", "images", "csv")}))

    command.set_defaults(run=run)
    _repository(command, "tiny")
    _bits_options(command, 64)


def _bits_options(command: argparse.ArgumentParser, group: int) -> None:
    add = command.add_argument
    add("--group", type=int, default=group, choices=(32, 64, 128), help="4-bit weights with one scale (default: %(default)s)")
    add("--pictures", type=_count, default=16, metavar="N", help="real pictures to choose fewer bits by (default: %(default)s)")
    add("--images", type=Path, metavar="DIR", help="a folder of real pictures (default: some of installed packages)")
    add("--csv", type=Path, metavar="FILE", help="every layer's errors (default: build/parity/<profile>-layers.csv)")


def _parity(command: argparse.ArgumentParser) -> None:
    def run(chosen: argparse.Namespace) -> None:
        from .sam import check_sam

        check_sam(_order(chosen, set(chosen.precision)))

    command.set_defaults(run=run)
    _sam_options(command, "judged")


def _sam_options(command: argparse.ArgumentParser, what: str) -> None:
    _repository(command, PRODUCTION_PROFILE)
    add = command.add_argument
    add("--model", required=True, choices=("vit_b", "vit_l", "vit_h"), help="the checkpoint's size")
    add("--checkpoint", required=True, type=Path, metavar="FILE", help="an official .pth file")
    add("--precision", nargs="+", default=["fp32"], choices=PRECISIONS, help=f"{what} (default: %(default)s)")
    add("--pictures", type=_count, metavar="N", help="real pictures to judge by (default: 3 for fp32, 20 for fp16 and bf16)")
    add("--images", type=Path, metavar="DIR", help="a folder of real pictures (default: some of installed packages)")
    add("--csv", type=Path, metavar="FILE", help="every picture's figures (default: build/parity/<profile>.csv)")


def _order(chosen: argparse.Namespace, precisions: set[str]) -> Order:
    from .sam import Order

    names = ("model", "checkpoint", "repository", "profile", "pictures", "images", "csv")
    return Order(**{name: getattr(chosen, name) for name in names}, precisions=tuple(p for p in PRECISIONS if p in precisions))


def _count(text: str) -> int:
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no count, expected a whole number from 1 on")


def _engine(command: argparse.ArgumentParser) -> None:
    def run(chosen: argparse.Namespace) -> None:
        from .engine import Options, export_engines

        names = ("repository", "profile", "precision", "timing_cache", "onnx", "out", "force")
        many = {"models": chosen.model, "batches": chosen.batch, "axes": chosen.axis, "architectures": chosen.architecture}
        export_engines(Options(**{name: getattr(chosen, name) for name in names}, **{name: tuple(value) for name, value in many.items()}))

    command.set_defaults(run=run)
    _repository(command, None)
    add = command.add_argument
    add("--model", nargs="+", default=(), metavar="NAME", help="steps to build (default: every one with a graph)")
    add("--precision", default="", choices=PRECISIONS, help="which graph (default: fp16, bf16 or fp32, the first there is)")
    add("--batch", nargs="+", type=_range, default=(), metavar="MIN,OPT,MAX", help="an optimisation profile each (default: the spec's)")
    add(
        "--axis",
        nargs="+",
        type=_axis,
        default=(),
        metavar="NAME=MIN,OPT,MAX",
        help="sizes of another dynamic axis: prompts, points, slots",
    )
    add("--architecture", nargs="+", default=(), metavar="sm_NN", help="GPUs to build for (default: the one here; TensorRT knows no other)")
    add("--timing-cache", type=Path, metavar="FILE", help="read and written: makes the next build of the same kernels faster")
    add("--onnx", type=Path, metavar="FILE", help="a graph outside of the repository, of the one step named by --model")
    add("--out", type=Path, metavar="DIR", help="where the plan of --onnx goes")
    add("--force", action="store_true", help="build again what is there already")


def _range(text: str) -> Range:
    sizes = tuple(int(part) for part in text.split(",") if part.isdigit())
    sizes = sizes * 3 if sizes and text == str(sizes[0]) else sizes
    if len(sizes) == 3 and text.count(",") in (0, 2) and 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        return sizes[0], sizes[1], sizes[2]
    raise argparse.ArgumentTypeError(f"{text!r} is no range, expected N or MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX")


def _axis(text: str) -> tuple[str, Range]:
    name, _, sizes = text.partition("=")
    return name, _range(sizes)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (ArtefactError, OSError, RuntimeError) as error:
        print(f"sightline-export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sightline-export: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

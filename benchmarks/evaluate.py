"""How good are the server's answers on a data set? `docs/evaluation.md` explains layouts and figures.

python benchmarks/evaluate.py                                   ELPV's test part, the profile's own knowledge
python benchmarks/evaluate.py elpv --shots 1 4 16 100 --expert-only
python benchmarks/evaluate.py path/to/mvtec --shots 1 2 4 --seeds 5 --text
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import cases
from answers import SECONDS, SHORT, Answer, Asker, ExpertAlone, Inspections, Setting, enrolled, settings
from datasets import LAYOUTS, Group, Picture, load
from figures import Row, figures, picture_row, save, seed_row
from harness import ROOT, Target, progress, serving
from sightline import Client
from tritonclient.grpc import InferenceServerClient


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = options(arguments)
    try:
        groups = load(chosen.data, chosen.layout)
        wanted = settings(chosen.shots, chosen.unsupervised, chosen.seeds)
        for group in groups:
            for setting in wanted:
                setting.chosen(group)  # too few normal pictures: said before the server is started
    except ValueError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    groups = [group.limited(chosen.limit) for group in groups] if chosen.limit else groups
    chosen.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with serving("evaluate", chosen.profile, chosen.url) as target:
        text = evaluate(target, groups, wanted, chosen)
    print(text)
    print(f"{time.monotonic() - begin:.0f} s; details in {chosen.out}")
    return 0


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    top = argparse.ArgumentParser(description="Evaluates a server's answers on a data set.")
    top.add_argument("data", nargs="?", default="elpv", help="elpv (default), or a folder in MVTec-AD, VisA or good and bad layout")
    top.add_argument("--layout", choices=LAYOUTS, help="of the folder (default: found out)")
    top.add_argument("--shots", nargs="+", type=int, metavar="K", help="normal pictures to enrol; 0: none (default)")
    top.add_argument("--unsupervised", action="store_true", help="also with all normal pictures of the training part, at most 500")
    top.add_argument("--seeds", type=int, default=5, help="draws of the normal pictures (default: %(default)s)")
    top.add_argument("--text", action="store_true", help="let the server write whole sentences (slower)")
    top.add_argument("--expert-only", action="store_true", help="ask only the few-shot expert: no SCORE, mask or text, but much faster")
    top.add_argument("--limit", type=int, metavar="N", help="test pictures of each class, for trying out")
    top.add_argument(
        "--cases", type=int, default=8, metavar="N", help="best and worst cases drawn of each class; 0: none (default: %(default)s)"
    )
    top.add_argument("--concurrency", type=int, default=2, help="pictures at once (default: %(default)s)")
    top.add_argument("--url", metavar="HOST:PORT", help="gRPC address of a running server (default: one of our own)")
    top.add_argument("--profile", default="tiny", help="artefacts to serve (default: %(default)s)")
    top.add_argument("--out", type=Path, default=ROOT / "build" / "evaluation", metavar="DIR", help="default: build/evaluation")
    chosen = top.parse_args(arguments)
    chosen.shots = chosen.shots if chosen.shots is not None else ([] if chosen.unsupervised else [0])
    if chosen.expert_only and (chosen.url or 0 in chosen.shots):
        top.error("--expert-only asks internal steps of a server of its own, about enrolled products: neither --url nor --shots 0")
    if min([*chosen.shots, chosen.seeds - 1, chosen.concurrency - 1]) < 0:
        top.error("--shots, --seeds and --concurrency are counts")
    return chosen


def evaluate(target: Target, groups: Sequence[Group], wanted: Sequence[Setting], chosen: argparse.Namespace) -> str:
    """Asks and writes, anew after each setting, so that what was measured is never lost; the Markdown."""
    name = "elpv" if chosen.data == "elpv" else Path(chosen.data).resolve().name
    pictures: list[Row] = []
    seeds: list[Row] = []
    text = ""
    with ExitStack() as stack:
        client = stack.enter_context(Client(target.url, timeout=SECONDS))
        step = stack.enter_context(progress(name, len(wanted) * sum(len(group.test) for group in groups)))
        server = stack.enter_context(InferenceServerClient(target.url))
        for group in groups:
            ask = asker(client, server, chosen)
            for setting in wanted:
                with enrolled(client, group, setting) as product:
                    answers = ask_all(ask, group, product, chosen.concurrency, step)
                    if chosen.cases and setting == next(s for s in reversed(wanted) if s.seed == 0):
                        draw(client, chosen.out / f"{name}_{group.name}", answers, product, chosen.cases)
                pictures += [picture_row(group.name, setting, answer) for answer in answers]
                seeds.append(seed_row(group.name, setting, figures(answers)))
                text = save(chosen.out, name, pictures, seeds)
    return text


def asker(client: Client, server: InferenceServerClient, chosen: argparse.Namespace) -> Asker:
    """One for each class: what it keeps of its pictures goes with it."""
    if chosen.expert_only:
        return ExpertAlone(server, chosen.profile)
    return Inspections(client, None if chosen.text else SHORT)


def ask_all(ask: Asker, group: Group, product: str | None, concurrency: int, step: Callable[[], None]) -> list[Answer]:
    def one(picture: Picture) -> Answer:
        answer = ask(picture, product)
        step()
        return answer

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(one, group.test))


def draw(client: Client, path: Path, answers: list[Answer], product: str | None, count: int) -> None:
    for name, found in zip(("best", "worst"), cases.extremes(answers, count), strict=True):
        if found:
            cases.sheet(client, found, product).save(path.with_name(f"{path.name}_{name}.jpg"), quality=88)


if __name__ == "__main__":
    sys.exit(main())

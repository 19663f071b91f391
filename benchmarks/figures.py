"""From answers to figures: one class and setting, mean and spread over seeds, CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from answers import Answer, Setting, truth_of
from harness import percentile, table, write_csv
from scores import Pixels, images, iou, mean_and_spread, resized, said_right
from sklearn.metrics import roc_auc_score

Row = dict[str, object]
MEAN = "mean"


def figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Every figure that these answers allow. The first word says of what: SCORE, the expert, or the whole answer."""
    heard = [answer for answer in answers if not answer.error]
    found: dict[str, float] = {}
    truth = [answer.picture.defective for answer in heard]
    for name, values in (("SCORE", [a.score for a in heard]), ("expert", [a.expert for a in heard])):
        known = [value for value in values if value is not None]
        if len(set(truth)) == 2 and len(known) == len(heard):
            found |= {f"{name} {key}": value for key, value in images(truth, known).items()}
    found |= _pixels(heard)
    overlaps = [value for answer in heard if (value := overlap(answer)) is not None]
    if overlaps:
        found["answer mask IoU"] = float(np.mean(overlaps))
    said = [said_right(answer.text, answer.picture.defective) for answer in heard if answer.text is not None]
    if said:
        found["answer yes or no"] = float(np.mean(said))
    if heard:
        found["answer ms p50"] = percentile([answer.milliseconds for answer in heard], 50)
    return found | {"answer missing": float(len(answers) - len(heard))}


def _pixels(heard: Sequence[Answer]) -> dict[str, float]:
    counted = Pixels()
    for answer in heard:
        if answer.heatmap is not None and (truth := truth_of(answer.picture, answer.heatmap.shape)) is not None:
            counted.add(answer.heatmap, truth)
    named = {"expert pixel AUROC": counted.auroc(), "expert AUPRO": counted.aupro()}
    return {name: value for name, value in named.items() if value is not None}


def overlap(answer: Answer) -> float | None:
    """IoU of MASK with the ground truth, of pictures that have one and a defect."""
    if answer.mask is None or not answer.picture.defective or (truth := truth_of(answer.picture, answer.mask.shape)) is None:
        return None
    return iou(answer.mask, resized(truth, answer.mask.shape))


def picture_row(group: str, setting: Setting, answer: Answer) -> Row:
    """A line of the CSV of pictures."""
    value, found = answer.picture, overlap(answer)
    verdict = "" if answer.score is None else "anomaly" if answer.score >= 0.5 else "normal"
    return {
        "class": group, "shots": setting.name, "seed": setting.seed, "picture": value.name, "kind": value.kind,
        "defective": int(value.defective), "verdict": verdict, "score": answer.score, "expert": answer.expert, "text": answer.text,
        "mask_iou": None if found is None else round(found, 4), "ms": round(answer.milliseconds, 1), "error": answer.error,
    }  # fmt: skip


def seed_row(group: str, setting: Setting, found: dict[str, float]) -> Row:
    return {"class": group, "shots": setting.name, "seed": setting.seed} | {key: round(value, 6) for key, value in found.items()}


def summary(rows: Sequence[Row]) -> list[Row]:
    """A line for each number of shots, class and figure: mean and standard deviation over seeds. The class "mean" is of all classes."""
    found: list[Row] = []
    for shots in dict.fromkeys(row["shots"] for row in rows):
        own = [row for row in rows if row["shots"] == shots]
        names = list(dict.fromkeys(row["class"] for row in own))
        groups = {name: [row for row in own if row["class"] == name] for name in names}
        if len(names) > 1:
            groups[MEAN] = _over_classes(own, len(names))
        for name, lines in groups.items():
            found += [_line(shots, name, key, lines) for key in _keys(lines)]
    return found


def _over_classes(rows: Sequence[Row], classes: int) -> list[Row]:
    """For each seed that every class has, the mean over the classes."""
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [row for row in rows if row["seed"] == seed]
        if len(own) == classes:
            common = [key for key in _keys(own) if all(key in row for row in own)]
            found.append({"seed": seed} | {key: float(np.mean([row[key] for row in own])) for key in common})
    return found


def _keys(rows: Sequence[Row]) -> list[str]:
    return [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("class", "shots", "seed")]


def _line(shots: object, name: str, key: str, lines: Sequence[Row]) -> Row:
    values = [float(row[key]) for row in lines if key in row]  # type: ignore[arg-type]
    mean, spread = mean_and_spread(values)
    return {"shots": shots, "class": name, "figure": key, "mean": round(mean, 4), "sd": round(spread, 4), "seeds": len(values)}


def kinds(pictures: Sequence[Row]) -> list[Row]:
    """A line for each number of shots and kind: mean AUROC against the good pictures of the same class and seed, mean IoU."""
    found: dict[tuple[object, object], list[dict[str, float]]] = {}
    for run in dict.fromkeys((row["shots"], row["class"], row["seed"]) for row in pictures):
        own = [row for row in pictures if (row["shots"], row["class"], row["seed"]) == run and not row["error"]]
        good = [row for row in own if not row["defective"]]
        for kind in dict.fromkeys(row["kind"] for row in own if row["defective"]):
            found.setdefault((run[0], kind), []).append(_kind(good, [row for row in own if row["kind"] == kind]))
    names = ("SCORE AUROC", "expert AUROC", "mask IoU")
    lines = []
    for (shots, kind), parts in found.items():
        known = {name: [part[name] for part in parts if name in part] for name in names}
        means = {name: round(float(np.mean(values)), 4) if values else "" for name, values in known.items()}
        lines.append({"shots": shots, "kind": kind, "classes x seeds": len(parts)} | means)
    return lines


def _kind(good: Sequence[Row], bad: Sequence[Row]) -> dict[str, float]:
    found, both = {}, [*good, *bad]
    for name, column in (("SCORE AUROC", "score"), ("expert AUROC", "expert")):
        if good and all(row[column] is not None for row in both):
            found[name] = float(roc_auc_score([row["defective"] for row in both], [row[column] for row in both]))
    overlaps = [float(str(row["mask_iou"])) for row in bad if row["mask_iou"] is not None]
    return found | ({"mask IoU": float(np.mean(overlaps))} if overlaps else {})


def markdown(title: str, lines: Sequence[Row]) -> str:
    """Tables of a summary: for each number of shots one of SCORE, of the expert and of the answers."""
    text = [
        f"# {title}",
        "",
        "Mean over seeds, ± standard deviation where there is more than one. What each figure means: docs/evaluation.md.",
        "",
    ]
    for shots in dict.fromkeys(line["shots"] for line in lines):
        for subject in ("SCORE", "expert", "answer"):
            own = [line for line in lines if line["shots"] == shots and str(line["figure"]).split()[0] == subject]
            if own:
                text += [f"## {shots} shots, {subject}", "", table(_table(own)), ""]
    return "\n".join(text)


def _table(lines: Sequence[Row]) -> list[Row]:
    names = list(dict.fromkeys(str(line["figure"]) for line in lines))
    rows = []
    for group in dict.fromkeys(line["class"] for line in lines):
        cells = {str(line["figure"]): line for line in lines if line["class"] == group}
        rows.append({"class": group} | {name.split(" ", 1)[1]: _cell(cells.get(name)) for name in names})
    return rows


def _cell(line: Row | None) -> str:
    if line is None:
        return ""
    digits = 0 if str(line["figure"]).endswith(("p50", "missing")) else 3
    spread = f" ± {line['sd']:.{digits}f}" if int(str(line["seeds"])) > 1 else ""
    return f"{line['mean']:.{digits}f}{spread}"


def save(out: Path, name: str, pictures: Sequence[Row], seeds: Sequence[Row]) -> str:
    """Writes the CSVs and the Markdown, whose text it returns."""
    lines = summary(seeds)
    write_csv(out / f"{name}_pictures.csv", list(pictures))
    keys = ["class", "shots", "seed", *_keys(seeds)]
    write_csv(out / f"{name}_seeds.csv", [{key: row.get(key, "") for key in keys} for row in seeds])
    write_csv(out / f"{name}_summary.csv", lines)
    by_kind = kinds(pictures)
    write_csv(out / f"{name}_kinds.csv", by_kind)
    text = markdown(name, lines) + f"\n## By kind of defect\n\n{table(by_kind)}\n"
    (out / f"{name}.md").write_text(text)
    return text

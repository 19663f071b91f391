"""Which metrics an expression of Prometheus reads, by its own grammar (promql-parser)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser

from .chart import CHART, Object, manifests, one

# What Grafana puts in before Prometheus sees an expression.
_GRAFANA = {"$__rate_interval": "1m", "$instance": ".*"}


def names(expression: str) -> set[str]:
    """ValueError where it is no PromQL."""
    for word, value in _GRAFANA.items():
        expression = expression.replace(word, value)
    return set(_selectors(promql_parser.parse(expression)))


def _selectors(node: Any) -> Iterator[str]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name
    for field in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (child := getattr(node, field, None)) is not None and not isinstance(child, str):
            yield from _selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from _selectors(child)


def instances() -> tuple[str, Object]:
    """The metric whose instances the dashboard offers, and the variable."""
    content = json.loads((CHART / "files" / "dashboard.json").read_text())
    variable = next(item for item in content["templating"]["list"] if item["name"] == "instance")
    return re.fullmatch(r"label_values\((\w+), instance\)", variable["definition"])[1], variable  # type: ignore[index]


def dashboard() -> dict[str, list[str]]:
    """Panel title -> its expressions."""
    content = json.loads((CHART / "files" / "dashboard.json").read_text())
    return {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in content["panels"] if panel["type"] != "row"}


def rules(given: Object) -> dict[str, str]:
    """Name of each alert and record -> expression; KEDA's triggers are more."""
    objects = manifests(given)
    found = {}
    if any(item["kind"] == "PrometheusRule" for item in objects):
        groups = one(objects, "PrometheusRule")["spec"]["groups"]
        found |= {rule.get("alert") or rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}
    if any(item["kind"] == "ScaledObject" for item in objects):
        triggers = one(objects, "ScaledObject")["spec"]["triggers"]
        found |= {f"keda {number}": trigger["metadata"]["query"] for number, trigger in enumerate(triggers)}
    return found


def served(text: str) -> set[str]:
    """Metric names of an answer of /metrics."""
    return set(re.findall(r"^([a-z_]+)(?:\{| )", text, re.MULTILINE))

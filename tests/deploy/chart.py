"""The Helm chart, rendered by Helm's own engine (helm-python-sdk holds Helm 4 as a library), and what judges its manifests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "docker" / "helm" / "sightline"
CUSTOM = Path(__file__).parent / "crds"
RELEASE, NAMESPACE = "line", "factory"
Object = dict[str, Any]


def values(name: str) -> Object:
    """Of one of the chart's values files; `values.yaml` itself is the default and needs no repeating."""
    return {} if name == "values.yaml" else yaml.safe_load((CHART / name).read_text())


def merged(base: Object, change: Object) -> Object:
    """As Helm merges several values files."""
    both = {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in change.items()
    }
    return base | both


def rendered(given: Object) -> dict[str, str]:
    """Template -> text. HelmError where the schema or a template refuses the values."""
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(given, name=RELEASE, namespace=NAMESPACE)


def manifests(given: Object) -> list[Object]:
    texts = [text for name, text in rendered(given).items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind (and name)."""
    found = [item for item in objects if item["kind"] == kind and (not name or item["metadata"]["name"] == name)]
    assert len(found) == 1, f"{len(found)} objects {kind} {name}"
    return found[0]


def pod_of(given: Object) -> Object:
    """The pod of the Deployment."""
    return one(manifests(given), "Deployment")["spec"]["template"]["spec"]


def faults(item: Object, kubernetes: str) -> list[str]:
    """What a cluster of that version would refuse: unknown fields, wrong types, missing fields."""
    path = CUSTOM / f"{item['apiVersion'].replace('/', '_')}_{item['kind']}.json"
    if path.exists():
        return [f"{item['kind']}: {error.json_path}: {error.message}" for error in _custom(path).iter_errors(item)]
    try:
        kubernetes_validate.validate(item, kubernetes, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{item['kind']}: {'.'.join(map(str, error.path))}: {error.message}"]
    return []


@cache
def _custom(path: Path) -> jsonschema.protocols.Validator:
    return jsonschema.Draft7Validator(json.loads(path.read_text()))

"""What docs/deployment.md says is to be there before `helm install`: all that the values files name, and valid."""

from __future__ import annotations

import re

import pytest
import yaml
from sightline.cli import parser

from .chart import ROOT, Object, faults, pod_of, rendered, values

TEXT = (ROOT / "docs" / "deployment.md").read_text().split("### Before helm install")[1].split("### Install")[0]
MADE: list[Object] = list(yaml.safe_load_all(re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0]))
NAMED = ("values-cpu.yaml", "values-gpu16.yaml", "values-h100.yaml")


@pytest.mark.parametrize("kubernetes", ["1.30", "1.37"])
def test_what_is_to_be_applied_is_valid(kubernetes: str) -> None:
    assert [item["kind"] for item in MADE] == ["PersistentVolumeClaim", "PersistentVolumeClaim", "Job"]
    assert [fault for item in MADE for fault in faults(item, kubernetes)] == []


@pytest.mark.parametrize("name", NAMED)
def test_every_claim_and_secret_of_the_pod_is_spoken_of(name: str) -> None:
    volumes = pod_of(values(name))["volumes"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume}
    own = {"line-sightline-products"}  # the chart's
    assert claims - own <= {item["metadata"]["name"] for item in MADE if item["kind"] == "PersistentVolumeClaim"}
    for secret in (volume["secret"]["secretName"] for volume in volumes if "secret" in volume):
        assert f"kubectl create secret generic {secret} " in TEXT


@pytest.mark.parametrize("mutual", [False, True])
def test_the_notes_show_a_command_that_can_be_answered(mutual: bool) -> None:
    notes = rendered({"tls": {"enabled": True, "secret": "keys", "mutual": mutual}})["sightline/templates/NOTES.txt"]
    line = next(line for line in notes.splitlines() if "sightline inspect" in line)
    chosen = parser().parse_args(line.split()[1:])
    assert chosen.tls_root and chosen.tls_name and bool(chosen.tls_key and chosen.tls_chain) is mutual
    plain = rendered({})["sightline/templates/NOTES.txt"]
    assert "--tls" not in plain

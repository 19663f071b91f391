"""The chart as Helm renders it: valid for two Kubernetes versions, strict about its values, and what the pod promises."""

from __future__ import annotations

import copy
from typing import Any

import helm_python
import pytest
from sightline_ensemble.machines import MACHINES
from sightline_ensemble.serve.cli import parser

from .chart import CHART, Object, faults, manifests, merged, one, pod_of, rendered, values

VERSIONS = ("1.30", "1.37")
FILES = ("values.yaml", "values-cpu.yaml", "values-gpu16.yaml", "values-h100.yaml")
KEDA = {"autoscaling": {"kind": "keda", "min": 1, "max": 3}, "monitoring": {"serviceMonitor": True, "rules": True}}
FETCH = {"artefacts": {"fetch": {"image": "rclone:1", "command": ["rclone", "copy", "store:real", "/artefacts"], "secret": "store"}}}
PLAIN = {
    "products": {"claim": "mine"},
    "serviceAccount": {"create": False},
    "networkPolicy": {"enabled": False},
    "disruption": {"enabled": False},
}
AUDITED = {"audit": {"enabled": True, "claim": "audit"}}
CASES: dict[str, Object] = {
    **{name: values(name) for name in FILES},
    "keda": merged(values("values-cpu.yaml"), KEDA),
    "kserve": merged(values("values-h100.yaml"), {"kserve": {"enabled": True}}),
    "fetch": merged(values("values-gpu16.yaml"), FETCH),
    "audited": merged(values("values-h100.yaml"), AUDITED),
    "renamed": merged(values("values-h100.yaml"), {"nameOverride": "inspector", "fullnameOverride": "hall-7", "podLabels": {"line": "7"}}),
    "plain": merged(values("values-cpu.yaml"), PLAIN),
}


@pytest.mark.parametrize("case", CASES)
def test_valid_for_two_kubernetes_versions(case: str) -> None:
    objects = manifests(CASES[case])
    assert [fault for version in VERSIONS for item in objects for fault in faults(item, version)] == []
    assert len({(item["kind"], item["metadata"]["name"]) for item in objects}) == len(objects)


def test_the_judges_see_mistakes() -> None:
    objects = manifests(CASES["values-h100.yaml"]) + manifests(CASES["keda"]) + manifests(CASES["kserve"])
    for kind in ("Deployment", "ServiceMonitor", "PrometheusRule", "ScaledObject", "InferenceService"):
        wrong = copy.deepcopy(next(item for item in objects if item["kind"] == kind))
        wrong["spec"]["replicaz"] = 1
        assert all(faults(wrong, version) for version in VERSIONS), kind
    deep = copy.deepcopy(next(item for item in objects if item["kind"] == "Deployment"))
    deep["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["prot"] = 1
    assert all("prot" in faults(deep, version)[0] for version in VERSIONS)


@pytest.mark.parametrize("case", CASES)
def test_lint(case: str) -> None:
    report = helm_python.lint(CHART, CASES[case], strict=True)
    assert report["errors"] == [] and [m["error"] for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"config": "gpu90"}, "at '/config': value must be one of '', 'cpu', 'gpu16', 'gpu80'"),
        ({"gpus": 1}, "additional properties 'gpus' not allowed"),
        ({"replicas": "two"}, "at '/replicas': got string, want integer"),
        ({"tls": {"enabled": True}}, "at '/tls/secret': minLength"),
        ({"autoscaling": {"kind": "vpa"}}, "at '/autoscaling/kind': value must be one of 'none', 'hpa', 'keda'"),
        ({"sharedMemory": "8 GB"}, "at '/sharedMemory': '8 GB' does not match"),
        ({"image": {"digest": "latest"}}, "at '/image/digest': 'latest' does not match"),
        ({"drain": {"preStopSeconds": 0}}, "at '/drain/preStopSeconds': minimum: got 0, want 5"),
        ({"audit": {"enabled": "yes"}}, "at '/audit/enabled': got string, want boolean"),
        ({"server": {"logFormat": "xml"}}, "at '/server/logFormat': value must be one of 'json', 'text'"),
        ({"autoscaling": {"min": 5}}, "autoscaling.min is 5, above autoscaling.max, 4"),
        ({"artefacts": {"claim": ""}}, "artefacts.claim is empty: name the claim"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: Object, said: str) -> None:
    with pytest.raises(helm_python.HelmError) as refusal:
        rendered(wrong)
    assert said in str(refusal.value)


def test_the_variants_are_those_of_the_server() -> None:
    with helm_python.Chart.load(CHART) as chart:
        assert chart.schema is not None
        assert set(chart.schema["properties"]["config"]["enum"]) == set(MACHINES)


@pytest.mark.parametrize("case", [name for name in CASES if name != "kserve"])
def test_the_server_understands_its_command_line(case: str) -> None:
    container = pod_of(CASES[case])["containers"][0]
    assert "command" not in container and container["args"][0] == "sightline-serve"
    chosen = parser().parse_args(container["args"][1:])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {name: getattr(chosen, f"{name}_port") for name in ports} and {"grpc", "metrics", "health"} <= set(ports)
    assert chosen.host == "0.0.0.0" and chosen.connection_seconds == 300


def test_connections_may_be_kept_for_good_or_a_while() -> None:
    for seconds in (0, 86400):
        words = pod_of({"server": {"connectionSeconds": seconds}})["containers"][0]["args"][1:]
        assert parser().parse_args(words).connection_seconds == seconds


@pytest.mark.parametrize("case", [*FILES, "fetch"])
def test_the_pod_is_confined(case: str) -> None:
    pod = pod_of(CASES[case])
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] | {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000} == pod["securityContext"]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"] and own["capabilities"] == {"drop": ["ALL"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory" and "/tmp" in mounts and "/products" in mounts


@pytest.mark.parametrize("case", FILES)
def test_probes_and_drain(case: str) -> None:
    pod = pod_of(CASES[case])
    container = pod["containers"][0]
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")} == {"/ready"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/live", "port": "health"}
    ready = container["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] + ready["timeoutSeconds"] <= 5, "a dead step must be noticed within 5 s"
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    exit_seconds = parser().parse_args(container["args"][1:]).exit_seconds
    # the supervisor waits 5 s beyond the exit time before it kills
    assert pod["terminationGracePeriodSeconds"] > pause + exit_seconds + 5
    start = container["startupProbe"]
    assert parser().parse_args(container["args"][1:]).start_seconds + 60 < start["periodSeconds"] * start["failureThreshold"]


ALONE, DOUBLED = {"maxSurge": 0, "maxUnavailable": 1}, {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize(
    "case, products, expected",
    [
        ("values-h100.yaml", {}, ALONE),  # a GPU has no room for two
        ("values-cpu.yaml", {}, ALONE),  # one node holds the claim
        ("values-cpu.yaml", {"accessMode": "ReadWriteMany"}, DOUBLED),
        ("values-cpu.yaml", {"claim": "mine"}, DOUBLED),
    ],
)
def test_a_rollout_waits_for_nothing_that_the_old_pod_holds(case: str, products: Object, expected: Object) -> None:
    given = merged(values(case), {"products": products})
    strategy = {"type": "RollingUpdate", "rollingUpdate": expected}
    assert one(manifests(given), "Deployment")["spec"]["strategy"] == strategy
    service = one(manifests(merged(given, {"kserve": {"enabled": True}})), "InferenceService")
    assert service["spec"]["predictor"]["deploymentStrategy"] == strategy


def test_a_rollout_has_time_to_build_engines() -> None:
    given = merged(values("values-h100.yaml"), {"probes": {"prepareSeconds": 7000, "startSeconds": 500}})
    spec = one(manifests(given), "Deployment")["spec"]
    start = spec["template"]["spec"]["containers"][0]["startupProbe"]
    assert spec["progressDeadlineSeconds"] == 7000 + start["periodSeconds"] * start["failureThreshold"] == 7590
    assert "--timeout=7590s" in rendered(given)["sightline/templates/NOTES.txt"]


def test_tls_shuts_plain_http() -> None:
    objects = manifests(CASES["values-h100.yaml"])
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    chosen = parser().parse_args(container["args"][1:])
    assert [str(path) for path in (chosen.tls_certificate, chosen.tls_key, chosen.tls_clients)] == [
        "/tls/tls.crt",
        "/tls/tls.key",
        "/tls/ca.crt",
    ]
    open_ports = {port["port"] for item in objects if item["kind"] == "Service" for port in item["spec"]["ports"]}
    open_ports |= {port["port"] for rule in one(objects, "NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    assert 8000 not in open_ports and 8001 in open_ports
    plain = manifests(CASES["values-cpu.yaml"])
    assert 8000 in {port["port"] for item in plain if item["kind"] == "Service" for port in item["spec"]["ports"]}


def test_the_audit_is_written_to_a_volume() -> None:
    kept, fleeting = pod_of(CASES["audited"]), pod_of({"audit": {"enabled": True, "size": "2Gi"}})
    for pod, volume in ((kept, {"persistentVolumeClaim": {"claimName": "audit"}}), (fleeting, {"emptyDir": {"sizeLimit": "2Gi"}})):
        server = pod["containers"][0]
        path = parser().parse_args(server["args"][1:]).audit
        assert str(path) == "/audit/$(POD_NAME).jsonl"  # Kubernetes puts the pod's name in
        assert {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}} in server["env"]
        mount = next(m for m in server["volumeMounts"] if m["mountPath"] == str(path.parent))
        assert {"name": mount["name"], **volume} in pod["volumes"] and not mount.get("readOnly")
    assert parser().parse_args(pod_of(CASES["values.yaml"])["containers"][0]["args"][1:]).audit is None


def test_services() -> None:
    objects = manifests(CASES["values-h100.yaml"])
    headless = one(objects, "Service", "line-sightline-headless")
    assert headless["spec"]["clusterIP"] == "None" and headless["spec"]["ports"][0]["port"] == 8001
    assert "replicas" not in one(objects, "Deployment")["spec"]
    keda = one(manifests(CASES["keda"]), "ScaledObject")["spec"]
    assert keda["scaleTargetRef"]["name"] == one(manifests(CASES["keda"]), "Deployment")["metadata"]["name"]


@pytest.mark.parametrize("case", ["values-h100.yaml", "renamed", "keda", "kserve"])
def test_everything_finds_the_pods(case: str) -> None:
    objects = manifests(CASES[case])
    served = next(item["spec"] for item in objects if item["kind"] in ("Deployment", "InferenceService"))
    labels = served["predictor"]["labels"] if "predictor" in served else served["template"]["metadata"]["labels"]
    pod = served["predictor"] if "predictor" in served else served["template"]["spec"]
    guards = [one(objects, "PodDisruptionBudget")["spec"]["selector"], one(objects, "NetworkPolicy")["spec"]["podSelector"]]
    guards += [pod["topologySpreadConstraints"][0]["labelSelector"]]
    services = [item for item in objects if item["kind"] == "Service"]
    for chosen in [*(guard["matchLabels"] for guard in guards), *(service["spec"]["selector"] for service in services)]:
        assert chosen and chosen.items() <= labels.items()
    ports = {port["name"] for container in pod["containers"] for port in container["ports"]}
    assert {port["targetPort"] for service in services for port in service["spec"]["ports"]} <= ports
    monitor = one(objects, "ServiceMonitor")["spec"]
    read = [item for item in services if monitor["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()]
    assert [port["name"] for service in read for port in service["spec"]["ports"]] == [end["port"] for end in monitor["endpoints"]]


def test_kserve_has_the_same_pod() -> None:
    service = one(manifests(CASES["kserve"]), "InferenceService")["spec"]["predictor"]
    pod: dict[str, Any] = pod_of(CASES["values-h100.yaml"])
    assert {key: service[key] for key in pod if key != "containers"} == {key: pod[key] for key in pod if key != "containers"}
    assert service["containers"][0]["args"] == pod["containers"][0]["args"]
    assert not [item for item in manifests(CASES["kserve"]) if item["kind"] in ("Deployment", "HorizontalPodAutoscaler")]


@pytest.mark.parametrize("case", CASES)
def test_notes(case: str) -> None:
    notes = rendered(CASES[case])["sightline/templates/NOTES.txt"]
    assert "profile" in notes and "<no value>" not in notes and "%!" not in notes

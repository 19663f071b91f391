"""How the chart's pods come to their artefacts and engines."""

from __future__ import annotations

from sightline_ensemble.serve.cli import parser

from .chart import Object, manifests, merged, one, pod_of, values

FETCH = {"image": "rclone:1", "command": ["rclone", "copy", "store:real", "/artefacts"], "secret": "store"}


def test_init_container_builds_engines_on_the_same_gpu() -> None:
    pod = pod_of(values("values-h100.yaml"))
    prepare, server = pod["initContainers"][0], pod["containers"][0]
    assert prepare["resources"]["limits"]["nvidia.com/gpu"] == server["resources"]["limits"]["nvidia.com/gpu"] == 1
    folder = prepare["args"][prepare["args"].index("--repository") + 1]
    assert folder == "/models/h100" == str(parser().parse_args(server["args"][1:]).repository)
    assert prepare["args"][prepare["args"].index("--plans") + 1] == "build" and prepare["image"].startswith("sightline-export:")
    fetched = pod_of(merged(values("values-h100.yaml"), {"artefacts": {"plans": "fetch"}}))["initContainers"][0]
    assert fetched["args"][fetched["args"].index("--plans") + 1] == "fetch" and fetched["image"].startswith("sightline:")
    assert next(m for m in server["volumeMounts"] if m["mountPath"] == "/models")["readOnly"] is True
    assert "initContainers" not in pod_of(values("values-cpu.yaml"))


def test_fetching_reserves_what_it_needs_and_not_what_the_server_does() -> None:
    given = merged(values("values-h100.yaml"), {"artefacts": {"fetch": FETCH}})
    fetch, _ = pod_of(given)["initContainers"]
    assert fetch["name"] == "fetch" and fetch["resources"] == {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    mine = {"requests": {"cpu": "2"}, "limits": {"memory": "3Gi"}}
    own = pod_of(merged(given, {"artefacts": {"fetch": {"resources": mine}}}))["initContainers"][0]["resources"]
    assert own == {"requests": {"cpu": "2", "memory": "256Mi"}, "limits": {"memory": "3Gi"}}


def egress(fetch: Object) -> list[Object]:
    return one(manifests(merged(values("values-gpu16.yaml"), {"artefacts": {"fetch": fetch}})), "NetworkPolicy")["spec"]["egress"]


def test_only_a_pod_that_fetches_may_call_out_and_where_is_said() -> None:
    assert egress({}) == []
    names = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    assert egress(FETCH) == [names, {"ports": [{"port": 443, "protocol": "TCP"}]}]
    narrow = {"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"port": 9000, "protocol": "TCP"}]}
    assert egress({**FETCH, "egress": [narrow]}) == [names, narrow]

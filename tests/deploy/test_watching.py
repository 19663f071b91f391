"""What is read of the servers and what follows from it: autoscaling, alerts, the dashboard's choice of servers."""

from __future__ import annotations

import pytest

from . import metrics
from .chart import manifests, merged, one, values

H100 = values("values-h100.yaml")
KEDA = merged(H100, {"autoscaling": {"kind": "keda", "waiting": 5, "stabilizationSeconds": 77}})
COUNTED = {"sightline_requests_failed"}


def test_the_hpa_scales_on_both_queues_as_recorded() -> None:
    scaler = one(manifests(H100), "HorizontalPodAutoscaler")["spec"]
    asked = {metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"] for metric in scaler["metrics"]}
    assert asked == {"sightline_queue_milliseconds": "100", "sightline_waiting": "8"}
    rules = metrics.rules(H100)
    assert metrics.names(rules["sightline_waiting"]) == {"nv_inference_pending_request_count", "sightline_lisa_waiting"}
    assert asked.keys() <= rules.keys()


def test_keda_scales_on_the_same_and_as_fast() -> None:
    keda = one(manifests(KEDA), "ScaledObject")["spec"]
    rules = metrics.rules(KEDA)
    queries = [f"sum({rules[name]})" for name in ("sightline_queue_milliseconds", "sightline_waiting")]
    assert ["".join(trigger["metadata"]["query"].split()) for trigger in keda["triggers"]] == ["".join(query.split()) for query in queries]
    assert [trigger["metadata"]["threshold"] for trigger in keda["triggers"]] == ["100", "5"]
    hpa = one(manifests(merged(KEDA, {"autoscaling": {"kind": "hpa"}})), "HorizontalPodAutoscaler")["spec"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    assert hpa["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 77
    assert "cooldownPeriod" not in keda, "it is for scaling to zero only"
    assert keda["fallback"] == {"failureThreshold": 4, "replicas": keda["minReplicaCount"], "behavior": "currentReplicasIfHigher"}


@pytest.mark.parametrize(
    "alert, read",
    [
        ("SightlineNotReady", {"sightline_ready"}),
        ("SightlineRestarting", {"sightline_restarts_total"}),
        ("SightlineStepBroken", COUNTED),
        ("SightlineFailing", {*COUNTED, "nv_inference_request_success"}),
    ],
)
def test_alerts_read_our_own_numbers(alert: str, read: set[str]) -> None:
    assert metrics.names(metrics.rules(H100)[alert]) == read


def test_both_ports_with_metrics_can_be_scraped() -> None:
    objects = manifests(H100)
    ends = one(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert [(end["port"], end["path"]) for end in ends] == [("metrics", "/metrics"), ("health", "/metrics")]
    rule = one(objects, "NetworkPolicy")["spec"]["ingress"][1]
    assert rule["from"][0]["namespaceSelector"] and [port["port"] for port in rule["ports"]] == [8002, 8003]
    down = metrics.rules(H100)["SightlineDown"]
    assert 'endpoint="metrics"' in down, "the supervisor answers where tritonserver is gone"


def test_a_broken_step_is_seen_at_its_first_failure() -> None:
    rule = metrics.rules(H100)["SightlineStepBroken"]
    assert 'code="INTERNAL"' in rule and "unless" in rule and "offset 5m" in rule, "no increase shows how a series begins"


def test_the_dashboard_offers_servers_and_counts_no_other_target() -> None:
    metric, variable = metrics.instances()
    assert metric == "sightline_lisa_cache_pages" and "allValue" not in variable, "All would be every target of that Prometheus"
    assert variable["query"]["query"] == variable["definition"]
    panels = metrics.dashboard()
    assert all("up" not in metrics.names(expression) for expressions in panels.values() for expression in expressions)
    assert panels["Servers"][0].startswith(f"count({metric}")

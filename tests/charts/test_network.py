"""Who may talk to whom, by all the policies together: the chart's, and those of a run."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

import chart
import pytest
from chart import objects, of_kind

from fedkube.api.v1alpha1 import FederatedRunSpec
from fedkube.coordinator.objects import Defaults, Run, policies

Policy = dict[str, Any]


@dataclass(frozen=True)
class End:
    """A pod, or with an address alone something that is none."""

    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = ""


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _is_peer(peer: dict[str, Any], end: End, home: str) -> bool:
    if block := peer.get("ipBlock"):
        return bool(end.address) and ipaddress.ip_address(end.address) in ipaddress.ip_network(
            block["cidr"]
        )
    if end.address:
        return False
    if (spaces := peer.get("namespaceSelector")) is not None:
        if not _selects(spaces, {"kubernetes.io/metadata.name": end.namespace}):
            return False
    elif end.namespace != home:
        return False
    return _selects(peer.get("podSelector", {}), end.labels)


def _one_way(
    found: list[Policy], way: str, peers: str, pod: End, other: End, port: tuple[int, str]
) -> bool:
    mine = [
        each
        for each in found
        if each["metadata"]["namespace"] == pod.namespace
        and way in each["spec"]["policyTypes"]
        and _selects(each["spec"]["podSelector"], pod.labels)
    ]
    if not mine or pod.address:
        return True
    return any(
        any((each["port"], each["protocol"]) == port for each in rule["ports"])
        and (peers not in rule or any(_is_peer(peer, other, pod.namespace) for peer in rule[peers]))
        for policy in mine
        for rule in policy["spec"].get(way.lower(), [])
    )


def allowed(found: list[Policy], source: End, to: End, port: int, protocol: str = "TCP") -> bool:
    """As a cluster that enforces NetworkPolicies decides."""
    out = _one_way(found, "Egress", "to", source, to, (port, protocol))
    return out and _one_way(found, "Ingress", "from", to, source, (port, protocol))


def policies_of(values: dict[str, Any]) -> list[Policy]:
    return of_kind("NetworkPolicy", objects(values, apis=(chart.MONITORING,)))


def labels_of(kind: str, values: dict[str, Any] | None = None) -> dict[str, str]:
    (found,) = of_kind(kind, objects(values))
    body = found["spec"]["template"] if kind == "Deployment" else found
    labels: dict[str, str] = body["metadata"]["labels"]
    return labels


COORDINATOR = End("ml", labels_of("Deployment"))
TEST = End("ml", labels_of("Pod"))
OTHER = End("ml", {"app": "other"})
PROMETHEUS = End("monitoring", {"app": "prometheus"})
API_SERVER = End(address="10.0.0.1")
INTERNET = End(address="93.184.216.34")
DNS = End("kube-system", {"k8s-app": "kube-dns"})


def a_server(namespace: str) -> End:
    return End(namespace, {"fedkube.io/role": "server", "fedkube.io/run": "digits"})


def a_worker(namespace: str) -> End:
    return End(namespace, {"fedkube.io/role": "worker", "fedkube.io/run": "digits"})


def of_a_run(namespace: str) -> list[Policy]:
    spec = FederatedRunSpec.model_validate({"pool": {"clients": 2, "workers": 1}})
    run = Run("digits", namespace, "0f8fad5b-d9cb-469f-a165-70867728950e", 1, spec)
    defaults = Defaults(
        "i",
        coordinator_labels={
            "app.kubernetes.io/name": "fedkube",
            "app.kubernetes.io/instance": "fedkube",
            "app.kubernetes.io/component": "coordinator",
        },
        coordinator_namespace="ml",
    )
    return policies(run, defaults)


@pytest.mark.parametrize("deny", [False, True])
def test_what_the_coordinator_needs_works_and_nothing_else(deny: bool) -> None:
    found = policies_of({"networkPolicy": {"denyNamespaces": deny}}) + of_a_run("ml")
    assert allowed(found, COORDINATOR, DNS, 53, "UDP")
    assert allowed(found, COORDINATOR, API_SERVER, 6443)
    assert allowed(found, COORDINATOR, a_server("ml"), 8470)
    assert allowed(found, a_worker("ml"), a_server("ml"), 8470)
    assert not allowed(found, COORDINATOR, a_server("ml"), 22)
    assert not allowed(found, COORDINATOR, INTERNET, 80)
    assert not allowed(found, COORDINATOR, OTHER, 8470)
    assert not allowed(found, COORDINATOR, a_server("elsewhere"), 8470)
    assert not allowed(found, COORDINATOR, a_worker("ml"), 8470)
    for stranger in (OTHER, PROMETHEUS, a_server("ml"), a_worker("ml"), INTERNET):
        assert not allowed(found, stranger, COORDINATOR, 8080)


@pytest.mark.parametrize("values", [{}, chart.FULL], ids=["default", "full"])
def test_helm_test_works_where_policies_are_enforced(values: dict[str, Any]) -> None:
    found = policies_of(values)
    assert allowed(found, TEST, DNS, 53, "UDP")
    assert allowed(found, TEST, API_SERVER, 6443)
    assert allowed(found, TEST, COORDINATOR, 8080)
    assert not allowed(found, TEST, INTERNET, 80)
    for stranger in (COORDINATOR, OTHER, INTERNET):
        assert not allowed(found, stranger, TEST, 8080)


def test_prometheus_may_read_the_metrics_where_it_is_said_to_be() -> None:
    found = policies_of({"networkPolicy": {"metricsFrom": [chart.PROMETHEUS]}})
    assert allowed(found, PROMETHEUS, COORDINATOR, 8080)
    assert not allowed(found, PROMETHEUS, COORDINATOR, 8081)
    assert not allowed(found, End("elsewhere", PROMETHEUS.labels), COORDINATOR, 8080)


def test_servers_in_the_namespaces_that_are_looked_after_are_reached() -> None:
    found = policies_of(chart.FULL) + of_a_run("team-a") + of_a_run("team-b")
    for space in ("team-a", "team-b"):
        assert allowed(found, COORDINATOR, a_server(space), 8470)
        assert allowed(found, a_worker(space), a_server(space), 8470)
    assert not allowed(found, COORDINATOR, a_server("ml"), 8470)
    assert not allowed(found, a_worker("team-a"), a_server("team-b"), 8470)


def test_the_api_server_can_be_named() -> None:
    found = policies_of(chart.FULL)
    assert allowed(found, COORDINATOR, API_SERVER, 6443)
    assert not allowed(found, COORDINATOR, API_SERVER, 443)
    assert not allowed(found, COORDINATOR, INTERNET, 6443)


def test_namespaces_can_be_denied_to_all_that_no_policy_allows() -> None:
    assert allowed(policies_of({}), OTHER, INTERNET, 80), "others are left alone by default"
    found = policies_of(chart.FULL)
    for space in ("ml", "team-a", "team-b"):
        assert not allowed(found, End(space, OTHER.labels), INTERNET, 80)
        assert not allowed(found, INTERNET, End(space, OTHER.labels), 80)
    assert allowed(found, End("elsewhere"), INTERNET, 80)


def test_without_policies_everything_is_allowed() -> None:
    assert policies_of({"networkPolicy": {"enabled": False}}) == []

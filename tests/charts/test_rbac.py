"""Every right that the chart gives to anyone, and a few that it must never give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import objects, of_kind

SNAPSHOT = Path(__file__).parent / "rbac.yaml"
KINDS = ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


def rights(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Without the labels that all objects of the chart have."""
    found = [each for each in objects(values) if each["kind"] in KINDS]
    for each in found:
        common = ("app.kubernetes.io/", "helm.sh/")
        labels = each["metadata"].pop("labels")
        kept = {name: word for name, word in labels.items() if not name.startswith(common)}
        each["metadata"] |= {"labels": kept} if kept else {}
    return found


def test_every_rule_and_every_binding() -> None:
    """The snapshot is the whole output: a right more, or one less, is to be seen in a review."""
    values = {"runs": {"namespaces": ["ml", "team-a"]}, "rbac": {"aggregate": True}}
    assert rights(values) == list(yaml.safe_load_all(SNAPSHOT.read_text()))


@pytest.mark.parametrize("elastic", [True, False])
def test_beyond_the_namespaces_that_were_given_only_what_there_is_free_is_seen(
    elastic: bool,
) -> None:
    documents = objects({"elastic": {"enabled": elastic}})
    rules = [rule for role in of_kind("ClusterRole", documents) for rule in role["rules"]]
    verbs = ["list", "watch"]
    seen = [
        {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": verbs},
        {
            "apiGroups": ["resource.k8s.io"],
            "resources": ["deviceclasses", "resourceslices", "resourceclaims"],
            "verbs": verbs,
        },
    ]
    assert rules == (seen if elastic else [])
    assert len(of_kind("ClusterRoleBinding", documents)) == elastic


def test_without_elastic_workers_nothing_reaches_beyond_the_namespaces_that_were_given() -> None:
    for spaces in (["ml"], ["a", "b"]):
        documents = objects({"runs": {"namespaces": spaces}, "elastic": {"enabled": False}})
        assert not of_kind("ClusterRole", documents)
        assert not of_kind("ClusterRoleBinding", documents)
        found = {each["metadata"]["namespace"] for each in of_kind("Role", documents)}
        assert found == {"ml", *spaces}


def may(rules: list[dict[str, Any]], verb: str, group: str, resource: str) -> bool:
    return any(
        verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]
        for rule in rules
    )


def test_what_the_coordinator_must_never_be_able_to_do() -> None:
    rules = [rule for role in of_kind("Role", objects()) for rule in role["rules"]]
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["apiGroups"] + rule["resources"]
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
    assert may(rules, "get", "", "secrets")
    for verb in ("list", "watch", "update", "patch", "delete"):
        assert not may(rules, verb, "", "secrets")
    for part in (
        "pods/exec",
        "pods/attach",
        "pods/portforward",
        "pods/log",
        "serviceaccounts/token",
    ):
        assert not any(part in rule["resources"] for rule in rules)
    for verb in ("create", "update", "patch", "delete"):
        assert not may(rules, verb, "", "pods")


def test_only_a_cluster_role_is_aggregated_and_nobody_is_bound_to_it() -> None:
    documents = objects({"rbac": {"aggregate": True}, "elastic": {"enabled": False}})
    assert [each["metadata"]["name"] for each in of_kind("ClusterRole", documents)] == [
        "fedkube-view",
        "fedkube-edit",
    ]
    assert not of_kind("ClusterRoleBinding", documents)


@pytest.mark.parametrize("values", [{}, {"serviceAccount": {"name": "mine"}}], ids=["own", "given"])
def test_one_account_is_bound_and_the_pods_have_it(values: dict[str, Any]) -> None:
    documents = objects(values)
    made = [each["metadata"]["name"] for each in of_kind("ServiceAccount", documents)]
    name = "mine" if values else "fedkube-coordinator"
    assert made == ([] if values else [name])
    bindings = of_kind("RoleBinding", documents) + of_kind("ClusterRoleBinding", documents)
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "ml"}]
    (deployment,) = of_kind("Deployment", documents)
    (test,) = of_kind("Pod", documents)
    for spec in (deployment["spec"]["template"]["spec"], test["spec"]):
        assert spec["serviceAccountName"] == name


def test_rights_can_be_left_to_others() -> None:
    assert rights({"rbac": {"create": False}}) == []


def test_the_lease_goes_with_the_release() -> None:
    (lease,) = of_kind("Lease", objects())
    leader = next(
        role for role in of_kind("Role", objects()) if role["metadata"]["name"] == "fedkube-leader"
    )
    named = [rule["resourceNames"] for rule in leader["rules"] if "resourceNames" in rule]
    assert named == [[lease["metadata"]["name"]]]
    assert "spec" not in lease, "who leads writes it, and an upgrade must not"

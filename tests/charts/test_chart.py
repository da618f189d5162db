"""The chart as Helm itself renders it, with default values and with others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "fedkube"

RULES = {
    ("coordination.k8s.io", "leases"): ["create", "get", "update"],
    ("fedkube.io", "federatedruns"): ["delete", "get", "list", "watch"],
    ("fedkube.io", "federatedruns/status"): ["patch"],
    ("fedkube.io", "federatedruns/finalizers"): ["update"],
    ("batch", "jobs"): ["create", "delete", "list", "patch", "watch"],
    ("", "pods"): ["list", "watch"],
    ("", "services"): ["create", "list", "watch"],
    ("", "persistentvolumeclaims"): ["create", "list", "watch"],
    ("", "configmaps"): ["create"],
    ("", "secrets"): ["create", "get"],
    ("", "events"): ["create"],
    ("networking.k8s.io", "networkpolicies"): ["create"],
    ("policy", "poddisruptionbudgets"): ["create"],
}


def rendered(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    files = helm_python.Chart.load(str(CHART)).render(values or {}, name="fedkube", namespace="ml")
    return [
        document
        for name, text in files.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def of_kind(kind: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in documents if each["kind"] == kind]


def test_helm_finds_nothing_wrong() -> None:
    found = helm_python.lint(str(CHART))
    assert found["errors"] == []
    # An icon is the one thing that it recommends.
    assert [each["error"] for each in found["messages"]] == ["icon is recommended"]


def test_the_definition_is_what_the_models_say() -> None:
    subprocess.run([sys.executable, "-m", "fedkube.api.crd", "--check"], check=True)


def test_the_definition_is_kept_unless_it_is_not_wanted() -> None:
    (crd,) = of_kind("CustomResourceDefinition", rendered())
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not of_kind("CustomResourceDefinition", rendered({"crds": {"enabled": False}}))


def test_every_rule_of_the_coordinator() -> None:
    found: dict[tuple[str, str], list[str]] = {}
    for role in of_kind("Role", rendered()):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    verbs = found.setdefault((group, resource), [])
                    verbs += rule["verbs"]
    assert {key: sorted(set(verbs)) for key, verbs in found.items()} == RULES


def test_nothing_reaches_beyond_the_namespaces_that_were_given() -> None:
    documents = rendered({"runs": {"namespaces": ["a", "b"]}})
    assert not of_kind("ClusterRole", documents)
    assert not of_kind("ClusterRoleBinding", documents)
    spaces = sorted(each["metadata"]["namespace"] for each in of_kind("Role", documents))
    assert spaces == ["a", "b", "ml"]


def test_the_coordinator_fits_the_restricted_standard() -> None:
    (deployment,) = of_kind("Deployment", rendered())
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize(
    "values",
    [
        {"coordinator": {"replicas": 0}},
        {"coordinator": {"replica": 2}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"runs": {"max": 0}},
        {"image": {"digest": "sha256:1"}},
        {"networkPolicy": {"apiServerPorts": []}},
    ],
    ids=json.dumps,
)
def test_values_that_will_not_do_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError, match=r"(?i)schema|specification"):
        rendered(values)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "fedkube-coordinator:0.1.0"),
        ({"registry": "r.example.com/t", "tag": "2"}, "r.example.com/t/fedkube-coordinator:2"),
        ({"digest": "sha256:" + "a" * 64}, "fedkube-coordinator@sha256:" + "a" * 64),
    ],
)
def test_an_image_has_a_registry_a_tag_or_a_digest(image: dict[str, str], name: str) -> None:
    (deployment,) = of_kind("Deployment", rendered({"image": image}))
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == name

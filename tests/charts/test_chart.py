"""The chart as Helm itself renders it, with default values and with others."""

from __future__ import annotations

import copy
import itertools
import json
import re
import subprocess
import sys
from typing import Any

import chart
import helm_python
import kube_schemas
import pod_security
import pytest
import yaml
from chart import SETS, objects, of_kind


def pod_of(body: dict[str, Any]) -> dict[str, Any]:
    return body["spec"]["template"]["spec"] if body["kind"] == "Deployment" else body["spec"]


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [*of_kind("Deployment", documents), *of_kind("Pod", documents)]
    assert len(found) == 2
    return [pod_of(each) for each in found]


def test_helm_finds_nothing_wrong() -> None:
    found = helm_python.lint(str(chart.PATH), strict=True)
    assert found["errors"] == []
    # An icon is the one thing that it recommends.
    assert [each["error"] for each in found["messages"]] == ["icon is recommended"]


# ---------------------------------------------------------------- valid on every Kubernetes


@pytest.mark.parametrize("version", kube_schemas.VERSIONS)
@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_what_is_rendered_is_valid(values: dict[str, Any], version: str) -> None:
    documents = objects(values, kube=version, apis=(chart.MONITORING,))
    assert documents
    for body in documents:
        if body["kind"] == "ServiceMonitor":  # below
            continue
        found = kube_schemas.complaints(body, version)
        assert not found, f"{body['kind']} {body['metadata']['name']}: {found}"


def test_the_schemas_find_what_is_wrong() -> None:
    (deployment,) = of_kind("Deployment", objects())
    for path, value in {
        "replica": 1,
        "replicas": "one",
        "template.spec.containers.0.livenessProbe.httpGet.prot": 1,
        "template.spec.volumes.0.emptyDir.size": "1Gi",
    }.items():
        bad = copy.deepcopy(deployment)
        *way, last = path.split(".")
        place: Any = bad["spec"]
        for step in way:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value
        for version in (kube_schemas.VERSIONS[0], kube_schemas.VERSIONS[-1]):
            assert kube_schemas.complaints(bad, version), (path, version)


def test_a_budget_is_of_the_version_that_the_cluster_has() -> None:
    def version(kube: str) -> str:
        (budget,) = of_kind("PodDisruptionBudget", objects(kube=kube))
        found: str = budget["apiVersion"]
        return found

    assert version("1.20.2") == "policy/v1beta1"
    assert version("1.21.0") == "policy/v1"
    assert version("1.36.2-gke.1") == "policy/v1"


# ---------------------------------------------------------------- pods


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_pods_fit_the_restricted_standard(values: dict[str, Any]) -> None:
    for spec in pods(objects(values, apis=(chart.MONITORING,))):
        assert list(pod_security.complaints(spec)) == []
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_restricted_standard_finds_what_does_not_fit() -> None:
    (spec, _) = pods(objects())
    for path, value in {
        "hostNetwork": True,
        "volumes.0": {"name": "v", "hostPath": {"path": "/"}},
        "securityContext": {"runAsNonRoot": True},
        "containers.0.securityContext": {"allowPrivilegeEscalation": False},
        "containers.0.securityContext.runAsUser": 0,
        "containers.0.securityContext.capabilities.add": ["SYS_ADMIN"],
        "containers.0.ports.0.hostPort": 80,
    }.items():
        bad = copy.deepcopy(spec)
        *way, last = path.split(".")
        place: Any = bad
        for step in way:
            place = place[int(step) if step.isdigit() else step]
        place[int(last) if last.isdigit() else last] = value
        if path == "securityContext":
            del bad["containers"][0]["securityContext"]["seccompProfile"]
        assert list(pod_security.complaints(bad)), path


def test_probes_ask_what_the_coordinator_answers() -> None:
    (spec, _) = pods(objects())
    (container,) = spec["containers"]
    asked = {
        name: container[name]["httpGet"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": {"path": "/healthz", "port": "metrics"},
        "livenessProbe": {"path": "/healthz", "port": "metrics"},
        "readinessProbe": {"path": "/readyz", "port": "metrics"},
    }
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"metrics": 8080}


def test_replicas_keep_away_from_each_other_unless_told_otherwise() -> None:
    def affinity(values: dict[str, Any]) -> Any:
        return pods(objects({"coordinator": values}))[0].get("affinity")

    assert affinity({}) is None
    (term,) = affinity({"replicas": 2})["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    (deployment,) = of_kind("Deployment", objects())
    assert (
        term["podAffinityTerm"]["labelSelector"]["matchLabels"]
        == deployment["spec"]["selector"]["matchLabels"]
    )
    assert affinity({"replicas": 2, "affinity": {"podAffinity": {}}}) == {"podAffinity": {}}


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "fedkube-coordinator:0.1.0"),
        ({"registry": "r.example.com/t", "tag": "2"}, "r.example.com/t/fedkube-coordinator:2"),
        ({"digest": "sha256:" + "a" * 64}, "fedkube-coordinator@sha256:" + "a" * 64),
    ],
)
def test_an_image_has_a_registry_a_tag_or_a_digest(image: dict[str, str], name: str) -> None:
    for spec in pods(objects({"image": image})):
        assert spec["containers"][0]["image"] == name


def test_images_of_fixed_tags_are_pulled_once() -> None:
    def policies(values: dict[str, Any]) -> tuple[str, str]:
        (container,) = pods(objects(values))[0]["containers"]
        told = {each["name"]: each.get("value") for each in container["env"]}
        return container["imagePullPolicy"], told["FEDKUBE_PULL_POLICY"]

    assert policies({}) == ("IfNotPresent", "IfNotPresent")
    assert policies({"image": {"pullPolicy": "Always"}}) == ("Always", "Always")
    assert policies({"runs": {"image": {"pullPolicy": "Never"}}}) == ("IfNotPresent", "Never")


def test_nothing_is_called_that_is_not_there() -> None:
    """No phone-home: no address of anything but the cluster, whatever the values."""
    for values in SETS.values():
        for name, text in chart.files(values, apis=(chart.MONITORING,)).items():
            urls = set(re.findall(r"\bhttps?://[^\s\"'/:]+", text))
            assert urls <= {"http://fedkube-coordinator"}, name


# ---------------------------------------------------------------- the definition


def test_the_definition_is_what_the_models_say() -> None:
    subprocess.run([sys.executable, "-m", "fedkube.api.crd", "--check"], check=True)


def test_the_definition_is_kept_unless_it_is_not_wanted() -> None:
    (crd,) = of_kind("CustomResourceDefinition", objects())
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (crd,) = of_kind("CustomResourceDefinition", objects({"crds": {"keep": False}}))
    assert "annotations" not in crd["metadata"]
    assert not of_kind("CustomResourceDefinition", objects({"crds": {"enabled": False}}))


# ---------------------------------------------------------------- metrics


def test_prometheus_is_told_where_the_metrics_are() -> None:
    documents = objects(chart.FULL, apis=(chart.MONITORING,))
    (monitor,) = of_kind("ServiceMonitor", documents)
    (service,) = of_kind("Service", documents)
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    spec = monitor["spec"]
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert spec["namespaceSelector"] == {"matchNames": [service["metadata"]["namespace"]]}
    assert spec["endpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "10s"}]
    assert [each["name"] for each in service["spec"]["ports"]] == ["metrics"]
    assert not of_kind("ServiceMonitor", objects(apis=(chart.MONITORING,)))


def test_the_dashboard_is_there_when_it_is_asked_for() -> None:
    assert not of_kind("ConfigMap", objects())
    (found,) = of_kind("ConfigMap", objects({"metrics": {"dashboard": {"enabled": True}}}))
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(found["data"]["fedkube.json"])
    assert dashboard == json.loads((chart.PATH / "files" / "dashboard.json").read_text())
    assert len({each["id"] for each in dashboard["panels"]}) == len(dashboard["panels"]) == 7


# ---------------------------------------------------------------- values


MONITOR = {"serviceMonitor": {"enabled": True}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"networkPolicy": {"apiServerPorts": []}}, "apiServerPorts is empty"),
        ({"runs": {"namespaces": ["a", "b", "a"]}}, "names a namespace twice: a, b, a"),
        (
            {"networkPolicy": {"enabled": False, "denyNamespaces": True}},
            "set networkPolicy.enabled=true as well",
        ),
        ({"metrics": MONITOR}, "say in networkPolicy.metricsFrom where Prometheus is"),
        (
            {"metrics": MONITOR, "networkPolicy": {"enabled": False}},
            "install the Prometheus Operator first",
        ),
        (
            {"coordinator": {"env": [{"name": "FEDKUBE_POD", "value": "x"}]}},
            "coordinator.env has FEDKUBE_POD, which the chart sets itself",
        ),
        (
            {"coordinator": {"podLabels": {"app.kubernetes.io/name": "x"}}},
            "coordinator.podLabels has app.kubernetes.io/name, which the chart sets itself",
        ),
    ],
    ids=str,
)
def test_values_that_contradict_each_other_are_refused_in_words(
    values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(sentence)):
        objects(values)


def test_a_service_monitor_can_be_forced() -> None:
    forced = {"serviceMonitor": {"enabled": True, "force": True}}
    assert of_kind(
        "ServiceMonitor", objects({"metrics": forced, "networkPolicy": {"enabled": False}})
    )


@pytest.mark.parametrize(
    "values",
    [
        {"coordinator": {"replicas": 0}},
        {"coordinator": {"replica": 2}},
        {"coordinator": {"env": [{"value": "x"}]}},
        {"coordinator": {"affinity": {"podAntiAfinity": {}}}},
        {"coordinator": {"resources": {"limit": {}}}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"image": {"digest": "sha256:1"}},
        {"image": {"tag": "a b"}},
        {"image": {"registry": "r.example.com/"}},
        {"image": {"repository": ""}},
        {"runs": {"max": 0}},
        {"runs": {"namespaces": ["Upper"]}},
        {"runs": {"namespaces": [""]}},
        {"runs": {"image": {"pullSecrets": ["x"]}}},
        {"metrics": {"serviceMonitor": {"interval": "often"}}},
        {"networkPolicy": {"apiServerPorts": [0]}},
        {"networkPolicy": {"apiServerCidrs": ["everywhere"]}},
        {"networkPolicy": {"metricsFrom": [{}]}},
        {"networkPolicy": {"dnsPorts": []}},
        {"telemetry": True},
    ],
    ids=json.dumps,
)
def test_values_that_will_not_do_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError, match=r"(?i)schema|specification"):
        objects(values)


def test_every_object_of_the_schema_is_strict_and_every_value_is_in_it() -> None:
    schema = json.loads((chart.PATH / "values.schema.json").read_text())
    values = yaml.safe_load((chart.PATH / "values.yaml").read_text())

    def walk(part: dict[str, Any], value: Any, path: str) -> None:
        if "properties" not in part:
            return
        assert part["additionalProperties"] is False, path
        if isinstance(value, dict):
            optional = {"global"} | (
                {"requests", "limits", "claims"} if "resources" in path else set()
            )
            known = part["properties"].keys() - optional
            # `affinity` and lists have defaults that are empty.
            assert not value or value.keys() - optional == known, path
            for name, each in value.items():
                walk(part["properties"][name], each, f"{path}.{name}")

    walk(schema, values, "")


def test_every_value_is_explained() -> None:
    """Each group of values, and each value whose name does not say all, has a comment above it."""
    lines = (chart.PATH / "values.yaml").read_text().splitlines()
    plain = {
        "registry", "repository", "digest", "enabled", "create", "nodeSelector", "tolerations",
        "annotations", "priorityClassName", "podAnnotations", "podLabels", "interval", "requests",
        "limits", "coordinator", "serviceAccount", "rbac", "metrics", "topologySpreadConstraints",
        "apiServerCidrs",
    }  # fmt: skip
    for before, line in itertools.pairwise(lines):
        name = line.strip().partition(":")[0]
        if name and not name.startswith("#") and name not in plain:
            assert before.strip().startswith("#"), f"{name} has no comment"


def test_the_notes_say_what_was_left_open() -> None:
    def notes(values: dict[str, Any]) -> str:
        return chart.files(values, apis=(chart.MONITORING,))["fedkube/templates/NOTES.txt"]

    assert "helm test fedkube --namespace ml" in notes({})
    assert "nobody may read the coordinator's metrics" in notes({})
    assert "nobody may read" not in notes(chart.FULL)
    assert "kubectl get federatedruns --namespace team-a" in notes(chart.FULL)
    assert "open to every pod" in notes(chart.BARE)
    assert "mine needs the rights" in notes(chart.BARE)
    assert "kubectl delete crd" not in notes(chart.PAIR)

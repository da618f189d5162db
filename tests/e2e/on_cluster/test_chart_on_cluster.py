"""The chart's life on a cluster: installed, tested, upgraded, rolled back, uninstalled, by Helm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from on_cluster import COORDINATOR, ROOT, SPACE, Cluster, federated_run
from prometheus_client.parser import text_string_to_metric_families

from fedkube.coordinator.election import _LEASE_S

CHART = ROOT / "helm" / "fedkube"
CRD = "crd/federatedruns.fedkube.io"
# A second release has a namespace of its own; of two, one brings the definition.
OTHER = "fedkube-e2e-chart"
RELEASE = "second"


class Release:
    """What Helm and kubectl say of the second release."""

    def __init__(self, cluster: Cluster, values: dict[str, Any]) -> None:
        self.cluster = cluster
        self.helm = helm_python.Config(kubeconfig_path=str(cluster.kubeconfig), namespace=OTHER)
        self.values = values | {"crds": {"enabled": False}}

    def values_with(self, **values: Any) -> dict[str, Any]:
        return self.values | values

    def pods(self) -> list[dict[str, Any]]:
        found = self.cluster.get("pods", "-n", OTHER, "-l", COORDINATOR)
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def ask(self, pod: dict[str, Any], path: str) -> str:
        """What a coordinator answers, by way of the API server."""
        name = pod["metadata"]["name"]
        where = f"/api/v1/namespaces/{OTHER}/pods/{name}:8080/proxy/{path}"
        return self.cluster.kubectl("get", "--raw", where, check=False)

    def leaders(self) -> list[str]:
        pods = self.pods()
        return [each["metadata"]["name"] for each in pods if self.ask(each, "readyz") == "leads\n"]

    def left(self) -> list[str]:
        kinds = (
            "all,serviceaccounts,roles,rolebindings,leases,networkpolicies,poddisruptionbudgets,"
            "configmaps,secrets"
        )
        label = f"app.kubernetes.io/instance={RELEASE}"
        return self.cluster.kubectl("get", kinds, "-n", OTHER, "-l", label, "-o", "name").split()


@pytest.fixture(scope="module")
def release(cluster: Cluster, chart: dict[str, Any]) -> Iterator[Release]:
    """Two replicas, in a namespace where pods have to fit the standard `restricted`."""
    cluster.kubectl("delete", "namespace", OTHER, "--ignore-not-found", "--timeout=100s")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OTHER, "labels": labels}}
    )
    found = Release(cluster, chart)
    values = found.values_with(coordinator={"replicas": 2})
    loaded = helm_python.Chart.load(str(CHART))
    found.helm.install(loaded, RELEASE, values, namespace=OTHER, wait="legacy", timeout=120)
    yield found
    cluster.kubectl("delete", "namespace", OTHER, "--wait=false")


def test_helm_test_is_content_with_default_values(helm: helm_python.Config) -> None:
    told = helm.test("fedkube", timeout=150, logs=True)["logs"]
    assert told.count("ok: ") == 4, told
    assert f"ok: FederatedRuns of the namespace {SPACE} can be listed" in told


def test_one_of_two_leads_and_both_are_ready(cluster: Cluster, release: Release) -> None:
    cluster.until(lambda: len(release.leaders()) == 1, "leader", 30)
    said = sorted(release.ask(pod, "readyz") for pod in release.pods())
    assert said == ["leads\n", "stands by\n"]
    leading = []
    for pod in release.pods():
        (status,) = pod["status"]["containerStatuses"]
        assert (status["ready"], status["restartCount"]) == (True, 0)
        page = release.ask(pod, "metrics")
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }
        leading.append(samples["fedkube_leading"])
        assert samples["process_resident_memory_bytes"] < 300e6
    assert sorted(leading) == [0, 1]
    told = release.helm.test(RELEASE, timeout=150, logs=True)["logs"]
    assert told.count("ok: ") == 4, told


def test_a_leader_that_is_asked_to_go_is_followed_at_once(
    cluster: Cluster, release: Release
) -> None:
    (old,) = cluster.until(lambda: len(release.pods()) == 2 and release.leaders(), "leader", 30)
    cluster.until(
        lambda: all(
            status["ready"]
            for pod in release.pods()
            for status in pod["status"]["containerStatuses"]
        ),
        "standby",
        30,
    )

    def lease() -> tuple[str, datetime, datetime]:
        (found,) = cluster.get("leases", "-n", OTHER)
        spec = found["spec"]
        times = (datetime.fromisoformat(spec[name]) for name in ("acquireTime", "renewTime"))
        return spec.get("holderIdentity", ""), *times

    _, _, renewed = lease()
    cluster.kubectl("-n", OTHER, "delete", "pod", old, "--wait=false")
    holder, acquired, _ = cluster.until(
        lambda: (now := lease())[0] not in ("", old) and now, "other holder", 60
    )
    # Whoever waits for a lease to end, and is not given it, has it no sooner than this.
    print(f"{holder} had it {acquired - renewed} after the last renewal that was seen")
    assert acquired - renewed < timedelta(seconds=_LEASE_S)
    cluster.until(lambda: release.leaders() == [holder], "leader", 60)


def test_what_becomes_of_a_release(cluster: Cluster, release: Release) -> None:
    """Upgraded, rolled back, uninstalled; what is not right is refused and changes nothing."""
    loaded = helm_python.Chart.load(str(CHART))

    def upgrade(**values: Any) -> None:
        release.helm.upgrade(
            loaded,
            RELEASE,
            release.values_with(**values),
            namespace=OTHER,
            wait="legacy",
            timeout=120,
        )

    def deployed() -> dict[str, Any]:
        (found,) = cluster.get("deployments", "-n", OTHER)
        env = found["spec"]["template"]["spec"]["containers"][0]["env"]
        return {
            "replicas": found["spec"]["replicas"],
            "max": next(each["value"] for each in env if each["name"] == "FEDKUBE_MAX_RUNS"),
        }

    assert deployed() == {"replicas": 2, "max": "20"}
    upgrade(coordinator={"replicas": 1}, runs=release.values.get("runs", {}) | {"max": 7})
    assert deployed() == {"replicas": 1, "max": "7"}
    with pytest.raises(helm_python.HelmError, match="apiServerPorts is empty"):
        upgrade(networkPolicy={"apiServerPorts": []})
    release.helm.rollback(RELEASE, version=1, wait="legacy", timeout=120)
    assert deployed() == {"replicas": 2, "max": "20"}
    assert release.helm.history(RELEASE)[-1]["status"] == "deployed"
    cluster.until(lambda: len(release.leaders()) == 1, "leader", 40)

    release.helm.uninstall(RELEASE, wait="legacy", timeout=60)
    # Only the pod of `helm test` stays, as Helm leaves it, for its log.
    may_stay = {f"pod/{RELEASE}-fedkube-test"}
    try:
        cluster.until(lambda: set(release.left()) <= may_stay, "clean-up", 120)
    finally:
        assert set(release.left()) <= may_stay
    # Nor a lease that a coordinator made anew while it was going.
    assert cluster.kubectl("get", "leases", "-n", OTHER, "-o", "name") == ""
    assert cluster.kubectl("get", CRD, "-o", "name")


def test_an_upgrade_brings_the_new_definition(
    cluster: Cluster, helm: helm_python.Config, chart: dict[str, Any], tmp_path: Path
) -> None:
    newer = tmp_path / "fedkube"
    shutil.copytree(CHART, newer)
    file = newer / "files" / "crds.yaml"
    definition = yaml.safe_load(file.read_text())
    (version,) = definition["spec"]["versions"]
    version["additionalPrinterColumns"].append(
        {"name": "Seed", "type": "integer", "jsonPath": ".spec.seed"}
    )
    file.write_text(yaml.safe_dump(definition))

    def columns() -> list[str]:
        found = json.loads(cluster.kubectl("get", CRD, "-o", "json"))
        return [each["name"] for each in found["spec"]["versions"][0]["additionalPrinterColumns"]]

    assert "Seed" not in columns()
    before = helm.history("fedkube")[-1]["revision"]
    loaded = helm_python.Chart.load(str(newer))
    helm.upgrade(loaded, "fedkube", chart, namespace=SPACE, wait="legacy", timeout=120)
    assert columns()[-1] == "Seed"
    helm.rollback("fedkube", version=before, wait="legacy", timeout=120)
    assert "Seed" not in columns()


def test_runs_outlive_the_chart_and_are_taken_up_when_it_is_back(
    cluster: Cluster, helm: helm_python.Config, chart: dict[str, Any]
) -> None:
    cluster.apply(federated_run("patient", {"pool": {"clients": 2}, "suspend": True}))
    cluster.until(lambda: cluster.status("patient")["state"] == "Suspended", "state", 30)
    helm.uninstall("fedkube", wait="legacy", timeout=60)
    assert cluster.kubectl("get", "federatedruns", "-o", "name").split()[-1].endswith("/patient")
    loaded = helm_python.Chart.load(str(CHART))
    helm.install(loaded, "fedkube", chart, namespace=SPACE, wait="legacy", timeout=120)
    cluster.apply(federated_run("late", {"pool": {"clients": 2}, "suspend": True}))
    cluster.until(lambda: cluster.status("late")["state"] == "Suspended", "state", 40)
    for name in ("patient", "late"):
        cluster.kubectl("delete", "federatedrun", name, "--timeout=60s")

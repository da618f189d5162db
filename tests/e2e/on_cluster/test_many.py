"""Two hundred objects at once: in order, under the coordinator's limits, without haste."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from on_cluster import COORDINATOR, KINDS, ROOT, Cluster, federated_run
from prometheus_client.parser import text_string_to_metric_families

from fedkube.app import bundle

MANY = 200
AT_ONCE = 2
ENOUGH = 4
CALLS_A_RUN = 30
MEMORY = 300e6
REST_S = 10
DEPLOYMENT = "deployment/fedkube-coordinator"


@pytest.fixture
def narrow(cluster: Cluster) -> Iterator[None]:
    """A coordinator, freshly started, that lets few runs go on at once."""
    cluster.kubectl("set", "env", DEPLOYMENT, f"FEDKUBE_MAX_RUNS={AT_ONCE}")
    cluster.kubectl("rollout", "status", DEPLOYMENT, "--timeout=100s")
    yield
    cluster.kubectl("set", "env", DEPLOYMENT, "FEDKUBE_MAX_RUNS=20")
    cluster.kubectl("rollout", "status", DEPLOYMENT, "--timeout=100s")


def measured(cluster: Cluster) -> dict[str, float]:
    """The coordinator's own metrics, by way of the API server."""
    for pod in cluster.get("pods", "-l", COORDINATOR, "--field-selector=status.phase=Running"):
        if "deletionTimestamp" in pod["metadata"]:
            continue  # a leader that is about to go
        name = pod["metadata"]["name"]
        where = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name}:8080/proxy/metrics"
        page = cluster.kubectl("get", "--raw", where, check=False)
        found = {
            sample.name: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if not sample.labels
        }
        if found.get("fedkube_leading"):
            return found
    return {}


def leading(cluster: Cluster) -> dict[str, float]:
    """Those of the one that leads, as soon as it answers."""
    found: dict[str, float] = cluster.until(lambda: measured(cluster), "leader")
    return found


@pytest.mark.timeout(600)
def test_two_hundred_objects_at_once(cluster: Cluster, narrow: None, tmp_path: Path) -> None:
    packed, sha256 = bundle.pack(ROOT / "tests" / "apps" / "nodes")
    (tmp_path / "app.zip").write_bytes(packed)
    cluster.kubectl(
        "create", "configmap", "many-app", f"--from-file=app.zip={tmp_path / 'app.zip'}"
    )
    spec = {
        "app": {"bundle": {"configMap": "many-app", "sha256": sha256}},
        "pool": {"clients": 2},
        "runConfig": {"num-server-rounds": 1},
    }
    names = [f"many-{number:03}" for number in range(MANY)]
    before = leading(cluster)["fedkube_api_calls"]
    cluster.apply(*(federated_run(name, spec) for name in names))
    most = 0

    def ended() -> list[dict[str, Any]]:
        nonlocal most
        runs = [each for each in cluster.get("federatedruns") if each["metadata"]["name"] in names]
        states = [each.get("status", {}).get("state") for each in runs]
        most = max(most, sum(state in ("Pending", "Running") for state in states))
        over = [each for each in runs if each.get("status", {}).get("state") == "Succeeded"]
        return over if len(over) >= ENOUGH else []

    cluster.until(ended, f"{ENOUGH} ends", 300, every=1.0)
    assert most <= AT_ONCE
    runs = [each for each in cluster.get("federatedruns") if each["metadata"]["name"] in names]
    over = [each for each in runs if each.get("status", {}).get("state") == "Succeeded"]
    begun = sorted(
        each["metadata"]["name"] for each in runs if each.get("status", {}).get("startedAt")
    )
    assert begun == names[: len(begun)], "they are taken in the order of their age and names"
    assert len(begun) <= len(over) + AT_ONCE + 1
    found = leading(cluster)
    calls = found["fedkube_api_calls"] - before
    # Each is told once that it waits, with an Event; those that ran need their objects besides.
    assert calls <= 2 * MANY + CALLS_A_RUN * len(begun), f"{calls} calls"
    assert found["process_resident_memory_bytes"] < MEMORY
    cluster.kubectl("delete", "federatedrun", *names, "--wait=false", timeout=240)

    def left() -> list[str]:
        return [*cluster.kubectl("get", "federatedruns", "-o", "name").split(), *leftovers()]

    def leftovers() -> list[str]:
        found = cluster.kubectl("get", KINDS, "-l", "fedkube.io/run", "-o", "name").split()
        return [each for each in found if "/many-" in each]

    cluster.until(lambda: not left(), "end of the last object", 200, every=1.0)
    rested = leading(cluster)["fedkube_api_calls"]
    time.sleep(REST_S)
    assert leading(cluster)["fedkube_api_calls"] == rested, "at rest nothing is asked"
    cluster.kubectl("delete", "configmap", "many-app")
    memory = found["process_resident_memory_bytes"] / 1e6
    print(f"{MANY} objects: {calls:.0f} calls with {len(begun)} runs begun, {memory:.0f} MB")

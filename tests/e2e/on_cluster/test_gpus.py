"""Runs whose workers follow the GPUs that the nodes advertise."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from on_cluster import ROOT, Cluster, local_misbehave

from tests.cluster import fake_nodes
from tests.cluster.api import Api

MISBEHAVE = ROOT / "tests" / "apps" / "misbehave"
# Within which the number of workers has to follow.
SOON_S = 10


@pytest.fixture(autouse=True)
def ours(cluster: Cluster) -> None:
    if not cluster.own:
        pytest.skip("the nodes of another's cluster have the GPUs that they have")


@pytest.fixture
def node(cluster: Cluster) -> str:
    """The real one: pods run there."""
    name: str = cluster.get("nodes", "-l", "!fedkube.local/fake")[0]["metadata"]["name"]
    return name


@pytest.fixture
def gpus(node: str) -> Iterator[Callable[[int], None]]:
    """Give the real node so many."""
    yield lambda count: fake_nodes.give_gpus(Api(), node, count)
    fake_nodes.give_gpus(Api(), node, 0)


@pytest.fixture
def gpu_run(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """A run whose workers ask for a GPU each; each client sleeps for so long."""
    names: list[str] = []

    def begin(name: str, clients: int, rounds: int, seconds: float, *words: str) -> str:
        names.append(name)
        config = f'mode="ok" sleep={seconds} num-server-rounds={rounds}'
        done = cluster.fedkube(
            *("submit", str(MISBEHAVE), "--name", name, "--seed", "5", "--gpus", "1"),
            *("--clients", str(clients), "-c", config, *words),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return name

    yield begin
    for name in names:
        cluster.kubectl("delete", "federatedrun", name, "--ignore-not-found")


def parallelism(cluster: Cluster, run: str) -> int:
    """Of the Job of the run's workers; -1 before there is one."""
    done = cluster.try_kubectl("get", "job", f"{run}-workers", "-o", "json")
    return int(json.loads(done.stdout)["spec"]["parallelism"]) if done.returncode == 0 else -1


def follows(cluster: Cluster, run: str, count: int) -> float:
    """Wait until the run is to have so many workers; how long that took."""
    began = time.monotonic()
    cluster.until(
        lambda: parallelism(cluster, run) == count, f"{count} workers of {run}", SOON_S, 0.1
    )
    return time.monotonic() - began


def said(cluster: Cluster, run: str) -> dict[str, str]:
    """The run's conditions: messages by reason."""
    return {each["reason"]: each["message"] for each in cluster.status(run)["conditions"]}


@pytest.mark.timeout(900)
def test_workers_follow_the_gpus_in_the_middle_of_a_round(
    cluster: Cluster,
    gpu_run: Callable[..., str],
    gpus: Callable[[int], None],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    run = gpu_run("follows", 64, 1, 2.0)
    # It begins with none, and says what it waits for.
    waits = cluster.until(lambda: said(cluster, run).get("NoWorkers"), "condition")
    assert "0 of at most 64 workers" in waits
    assert "nvidia.com/gpu" in waits
    took: dict[str, float] = {}
    gpus(2)
    took["0 to 2"] = follows(cluster, run, 2)
    cluster.until(lambda: cluster.status(run)["gpus"] == 2, "GPUs in the status")
    cluster.until(lambda: cluster.status(run)["round"] == 1, "first round")
    for before, count in ((2, 5), (5, 1), (1, 4)):
        gpus(count)
        took[f"{before} to {count}"] = follows(cluster, run, count)
        cluster.until(
            lambda count=count: len(cluster.running_pods(run, "worker")) == count, f"{count} pods"
        )
        assert cluster.status(run)["state"] == "Running", "all of this is in the middle of a round"
    assert said(cluster, run)["FewerWorkers"].startswith("4 of at most 64 workers: 1 node with no")
    found = cluster.wait_for_end(run, 400)
    assert (found["state"], found["round"]) == ("Succeeded", 1), found
    # As without changes: each client has counted once.
    assert found["model"]["sha256"] == local_misbehave(tmp_path / "local", 1, clients=64)
    record_property("seconds until the Job had the new number", took)
    print(took)


def test_as_many_workers_as_gpus_on_all_nodes_and_the_scheduler_agrees(
    cluster: Cluster, gpu_run: Callable[..., str]
) -> None:
    """Fake nodes never start a pod; that the real scheduler binds them there is what counts."""
    api = Api()
    sizes = {"fake-1": 1, "fake-4": 4, "fake-8": 8}
    try:
        for name, count in sizes.items():
            fake_nodes.add(api, name, count)
        run = gpu_run("placed", 64, 1, 0.0)

        def bound() -> dict[str, int]:
            pods = cluster.get("pods", "-l", f"fedkube.io/run={run},fedkube.io/role=worker")
            return Counter(each["spec"].get("nodeName", "") for each in pods)

        cluster.until(lambda: bound() == sizes, "13 bound pods")
        assert parallelism(cluster, run) == 13
        cluster.kubectl("cordon", "fake-8")
        # They keep what they have there; but its GPUs do not count any more.
        follows(cluster, run, 5)
    finally:
        for name in sizes:
            cluster.kubectl("delete", "node", name, "--ignore-not-found")


def test_a_pod_serves_several_clients_at_a_time(
    cluster: Cluster, gpu_run: Callable[..., str], gpus: Callable[[int], None], tmp_path: Path
) -> None:
    gpus(2)
    run = gpu_run("packed", 24, 1, 4.0, "--clients-per-gpu", "3")
    cluster.until(lambda: cluster.status(run)["workers"] == 6, "workers of two pods")
    assert (parallelism(cluster, run), cluster.status(run)["gpus"]) == (2, 2)
    assert "2 of at most 8 workers" in said(cluster, run)["FewerWorkers"]
    # A pod that has to go hands over what its three workers have.
    gpus(1)
    follows(cluster, run, 1)
    found = cluster.wait_for_end(run, 300)
    assert (found["state"], found["round"]) == ("Succeeded", 1), found
    assert found["model"]["sha256"] == local_misbehave(tmp_path / "local", 1, clients=24)


def test_runs_share_the_gpus(
    cluster: Cluster, gpu_run: Callable[..., str], gpus: Callable[[int], None]
) -> None:
    gpus(4)
    # One long round: a run that waits for workers near the end of a round has use for few.
    first = gpu_run("first", 1000, 1, 1.0)
    cluster.until(lambda: len(cluster.running_pods(first, "worker")) == 4, "4 workers")
    second = gpu_run("second", 4, 10, 1.0)
    follows(cluster, first, 2)
    follows(cluster, second, 2)
    cluster.until(
        lambda: "other runs'" in said(cluster, first).get("FewerWorkers", ""), "reason", SOON_S
    )
    # A change of the object counts in the middle of the run.
    change: dict[str, Any] = {"spec": {"sharing": {"priority": 1}}}
    cluster.kubectl("patch", "federatedrun", second, "--type=merge", "-p", json.dumps(change))
    follows(cluster, second, 4)
    follows(cluster, first, 0)
    assert cluster.wait_for_end(second)["state"] == "Succeeded"
    follows(cluster, first, 4)
    cluster.kubectl("delete", "federatedrun", first)
    cluster.until_gone(first)

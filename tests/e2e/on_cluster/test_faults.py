"""What is stopped, drained or used up while runs go on: they end well, and all is there once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from on_cluster import Cluster, local_misbehave

AWAY_S = 120


@pytest.mark.timeout(600)
def test_the_api_server_is_away_for_two_minutes(
    cluster: Cluster,
    slow_run: Callable[..., str],
    daemons: Callable[[str, str], None],
    tmp_path: Path,
) -> None:
    rounds = 75
    run = slow_run("away", rounds, 2.0)
    cluster.until(lambda: cluster.status(run)["round"] >= 2, "second round")
    before = server_uids(cluster, run)
    watch = cluster.begin("watch", run)
    assert watch.stdout is not None
    assert watch.stdout.readline(), "it sees the run before it sees nothing"
    daemons("stop", "apiserver")
    time.sleep(AWAY_S)
    daemons("start", "apiserver")
    cluster.until(
        lambda: cluster.try_kubectl("get", "federatedrun", run).returncode == 0, "API server", 60
    )
    found = cluster.wait_for_end(run)
    assert (found["state"], found["round"]) == ("Succeeded", rounds), found
    ended, began = (
        cluster.get("federatedruns", "--field-selector", f"metadata.name={run}")[0]["status"][name]
        for name in ("endedAt", "startedAt")
    )
    assert began < ended
    assert server_uids(cluster, run) == before, "there was never a second server"
    shown, said = watch.communicate(timeout=60)
    assert watch.returncode == 0, shown + said
    for line in ("the cluster does not answer", "the cluster answers again", "Succeeded"):
        assert line in shown
    assert found["model"]["sha256"] == local_misbehave(tmp_path / "local", rounds)
    cluster.kubectl("delete", "federatedrun", run)
    cluster.until_gone(run)


def server_uids(cluster: Cluster, run: str) -> list[str]:
    """Of the server's Job and of its pods, those that have ended included."""
    labels = ("-l", f"fedkube.io/run={run},fedkube.io/role=server")
    return sorted(each["metadata"]["uid"] for each in cluster.get("jobs,pods", *labels))


def test_a_node_is_drained(cluster: Cluster, slow_run: Callable[..., str], tmp_path: Path) -> None:
    """Workers make way and come back; the server is let be, by its disruption budget."""
    if not cluster.own:
        pytest.skip("nodes of another's cluster are not to be drained")
    rounds = 15
    run = slow_run("drained", rounds, 2.0)
    cluster.until(lambda: cluster.status(run)["round"] >= 2, "second round")
    node = cluster.get("nodes")[0]["metadata"]["name"]
    server = cluster.running_pods(run, "server")
    workers = set(cluster.running_pods(run, "worker"))
    drain = ("drain", node, "--force", "--delete-emptydir-data", "--ignore-daemonsets")
    role = f"--pod-selector=fedkube.io/run={run},fedkube.io/role"
    try:
        done = cluster.try_kubectl(*drain, f"{role}=worker", "--timeout=100s")
        assert done.returncode == 0, done.stderr
        refused = cluster.try_kubectl(*drain, f"{role}=server", "--timeout=15s")
        assert refused.returncode != 0
        assert "disruption budget" in refused.stderr + refused.stdout
        assert cluster.running_pods(run, "server") == server

        def told() -> str:
            messages = {each["reason"]: each for each in cluster.status(run)["conditions"]}
            return messages.get("NoNodeFits", {}).get("message", "")

        cluster.until(lambda: "worker pod" in told(), "condition")
    finally:
        cluster.kubectl("uncordon", node)
    found = cluster.wait_for_end(run)
    assert (found["state"], found["round"]) == ("Succeeded", rounds)
    assert not workers & set(cluster.pods(run, "worker"))
    assert cluster.pods(run, "server") == server
    assert found["model"]["sha256"] == local_misbehave(tmp_path / "local", rounds)


def test_a_quota_that_is_used_up_is_told_and_waited_for(
    cluster: Cluster, slow_run: Callable[..., str]
) -> None:
    # Those of other tests' runs are on their way out, and are not to make room.
    cluster.until(lambda: not cluster.get("pods", "-l", "fedkube.io/run"), "end of other runs")
    there = len(cluster.get("pods", "--field-selector=status.phase!=Succeeded"))
    quota: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight"},
        "spec": {"hard": {"pods": str(there + 1)}},  # for one of the run's: whose is made first
    }
    try:
        cluster.apply(quota)
        run = slow_run("quota", 2, 0.0)

        def told() -> str:
            messages = {each["reason"]: each for each in cluster.status(run)["conditions"]}
            return messages.get("QuotaUsedUp", {}).get("message", "")

        assert "no room for the pods of quota-" in cluster.until(told, "condition")
    finally:
        cluster.kubectl("delete", "quota", "tight", "--ignore-not-found")
    assert cluster.wait_for_end(run)["state"] == "Succeeded"

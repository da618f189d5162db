"""Whole runs on a cluster: real pods, from the images, by the chart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from on_cluster import (
    COORDINATOR,
    POD_GONE,
    SPACE,
    Cluster,
    federated_run,
    local_digits,
    local_misbehave,
)


def test_a_run_gives_the_model_that_it_gives_on_a_laptop(
    cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    run = submit("same", "--watch")
    done = cluster.fedkube("pull", run, "--out", str(tmp_path / "pulled"))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "pulled" / "run.json").read_text())
    assert (record["state"], record["rounds"]) == ("Succeeded", 3)
    assert (tmp_path / "pulled" / "model.safetensors").stat().st_size > 100_000
    assert record["model"]["sha256"] == local_digits(tmp_path / "local", 3)["model"]["sha256"]
    shown = cluster.kubectl("get", "federatedrun", run).splitlines()
    assert shown[0].split() == ["NAME", "STATE", "ROUND", "CLIENTS", "GPUS", "ETA", "AGE"]
    assert shown[1].split()[:4] == [run, "Succeeded", "3/3", "10"]
    events = cluster.kubectl("get", "events", "--field-selector", f"involvedObject.name={run}")
    assert "Completed" in events


def test_pods_run_as_nobody_in_particular(cluster: Cluster, slow_run: Callable[..., str]) -> None:
    run = slow_run("nonroot", 20, 1.0)
    for role in ("server", "worker"):
        (pod, *_) = cluster.until(lambda role=role: cluster.running_pods(run, role), f"{role} pod")
        assert cluster.kubectl("exec", pod, "--", "id", "-u").strip() == "10001"
        refused = cluster.kubectl("exec", pod, "--", "sh", "-c", "touch /opt/x || echo refused")
        assert "refused" in refused
        token = "ls /var/run/secrets/kubernetes.io 2>/dev/null || echo none"
        assert "none" in cluster.kubectl("exec", pod, "--", "sh", "-c", token)


@pytest.mark.parametrize("role", ["server", "worker"])
def test_a_pod_that_is_deleted_in_mid_round_is_replaced(
    cluster: Cluster, slow_run: Callable[..., str], role: str, tmp_path: Path
) -> None:
    rounds = 15
    run = slow_run(f"kill-{role}", rounds, 1.0)
    cluster.until(lambda: cluster.status(run)["round"] >= 2, "second round")
    before = cluster.running_pods(run, role)
    cluster.kubectl("delete", before[0], "--grace-period=1")
    found = cluster.wait_for_end(run)
    assert found["state"] == "Succeeded", found
    assert found["round"] == rounds
    if role == "server":
        (successor,) = set(cluster.pods(run, role)) - set(before)
        assert "replies of earlier are there" in cluster.kubectl("logs", successor)
    assert found["model"]["sha256"] == local_misbehave(tmp_path / "local", rounds)


def test_the_coordinator_may_die_at_any_moment(
    cluster: Cluster, slow_run: Callable[..., str]
) -> None:
    run = slow_run("orphan", 12, 1.0)
    for _ in range(3):
        time.sleep(1.5)
        cluster.kubectl("delete", "pod", "-l", COORDINATOR, "--grace-period=0", "--force")
    found = cluster.wait_for_end(run)
    assert (found["state"], found["round"]) == ("Succeeded", 12)
    assert len(cluster.pods(run, "server")) == 1, "there was never a second server"


def test_deleting_a_run_leaves_nothing(cluster: Cluster, slow_run: Callable[..., str]) -> None:
    run = slow_run("gone", 50, 1.0)
    cluster.until(lambda: cluster.running_pods(run, "worker"), "worker")
    assert cluster.fedkube("delete", run).returncode == 0
    cluster.until_gone(run)


def test_a_run_that_is_stopped_has_no_workers_until_it_is_resumed(
    cluster: Cluster, slow_run: Callable[..., str]
) -> None:
    run = slow_run("pause", 12, 1.0)
    cluster.until(lambda: cluster.running_pods(run, "worker"), "worker")
    assert cluster.fedkube("stop", run).returncode == 0
    cluster.until(lambda: cluster.status(run)["state"] == "Suspended", "pause")
    cluster.until(lambda: not cluster.running_pods(run, "worker"), "end of the workers", POD_GONE)
    assert cluster.running_pods(run, "server")
    assert cluster.fedkube("resume", run).returncode == 0
    assert cluster.wait_for_end(run)["state"] == "Succeeded"


def test_an_image_that_is_not_there_is_named(cluster: Cluster) -> None:
    cluster.apply(
        federated_run("noimage", {"app": {"image": "not-there:1"}, "pool": {"clients": 2}})
    )

    def told() -> bool:
        return any(
            "not-there:1 cannot be pulled" in each["message"]
            for each in cluster.status("noimage")["conditions"]
        )

    cluster.until(told, "condition")
    cluster.kubectl("delete", "federatedrun", "noimage")


@pytest.mark.parametrize(
    "spec",
    [{"pool": {"clients": 1}}, {"pool": {"clients": 2, "workers": 0}}, {"pool": "ten"}],
    ids=["one client", "no workers", "no object"],
)
def test_an_object_that_will_not_do_is_refused_at_admission(
    cluster: Cluster, spec: dict[str, Any]
) -> None:
    done = cluster.try_apply(federated_run("bad", spec))
    assert done.returncode != 0
    assert "spec" in done.stderr


@pytest.mark.parametrize(
    ("verb", "what", "where", "may"),
    [
        ("get", "secrets", SPACE, True),
        ("list", "secrets", SPACE, False),
        ("get", "secrets", "kube-system", False),
        ("create", "pods/exec", SPACE, False),
        ("create", "pods", SPACE, False),
        ("create", "jobs.batch", "default", False),
    ],
)
def test_what_the_coordinator_may_do(
    cluster: Cluster, verb: str, what: str, where: str, may: bool
) -> None:
    account = f"system:serviceaccount:{SPACE}:fedkube-coordinator"
    done = cluster.try_kubectl("auth", "can-i", verb, what, "--as", account, "-n", where)
    assert done.stdout.strip() == ("yes" if may else "no")

"""The commands that talk to a cluster, on a real one: what a person does, and what goes wrong."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from on_cluster import FEDKUBE, ROOT, SPACE, Cluster

APP = str(ROOT / "tests" / "apps" / "message_api")


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Submit a small app that needs no packages; the run is deleted after."""
    names: list[str] = []

    def begin(*words: str, rounds: int = 2) -> str:
        done = cluster.fedkube(
            *("submit", APP, "--image", cluster.image("fedkube-client"), "--clients", "3"),
            *("--seed", "7", "-c", f"num-server-rounds={rounds}", *words),
        )
        assert done.returncode == 0, done.stderr
        names.append(done.stdout.strip())
        return names[-1]

    yield begin
    for name in names:
        cluster.kubectl("delete", "federatedrun", name, "--ignore-not-found")


def readers(cluster: Cluster, run: str) -> list[str]:
    return cluster.pods(run, "reader")


def test_from_submit_to_a_pulled_model(
    cluster: Cluster, start: Callable[..., str], tmp_path: Path
) -> None:
    run = start()
    watched = cluster.fedkube("watch", run)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "Succeeded  2 rounds" in watched.stdout
    told = json.loads(cluster.fedkube("get", run, "--format", "json").stdout)
    assert (told["state"], told["clients"], told["roundOf"]) == ("Succeeded", 3, "2/2")
    assert "server" in [pod["role"] for pod in told["pods"]]
    assert "Completed" in [event["reason"] for event in told["events"]]
    assert "Strategy execution finished" in cluster.fedkube("logs", run).stdout
    objects = {
        line.split()[3].split("/")[0] for line in cluster.fedkube("events", run).stdout.splitlines()
    }
    assert {"FederatedRun", "Job", "Pod"} <= objects
    # Several at once, each with a pod of its own.
    pulls = [cluster.begin("pull", run, "--out", str(tmp_path / f"p{n}")) for n in range(3)]
    for n, pull in enumerate(pulls):
        out, err = pull.communicate(timeout=120)
        assert pull.returncode == 0, err
        assert out.strip() == str(tmp_path / f"p{n}")
        assert json.loads((tmp_path / f"p{n}" / "run.json").read_text())["rounds"] == 2
    models = {(tmp_path / f"p{n}" / "model.safetensors").read_bytes() for n in range(3)}
    assert len(models) == 1
    assert readers(cluster, run) == []
    # When all else of the run is gone, its disk is still read.
    cluster.kubectl("delete", "job", f"{run}-server", "--timeout=60s")
    done = cluster.fedkube("pull", run, "--only", "model", "--out", str(tmp_path / "late"))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "late").iterdir()] == ["model.safetensors"]


def test_what_a_dry_run_prints_can_be_submitted_as_a_file(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.fedkube(
        *("submit", APP, "--image", cluster.image("fedkube-client"), "--name", "dry", "--dry-run")
    )
    config, run = yaml.safe_load_all(done.stdout)
    cluster.apply(config)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    try:
        done = cluster.fedkube("submit", str(tmp_path / "run.yaml"), "--watch")
        assert (done.returncode, done.stdout) == (0, "dry\n"), done.stderr
        again = cluster.fedkube("submit", str(tmp_path / "run.yaml"))
        assert again.returncode == 2
        assert "there is a run 'dry'" in again.stderr
    finally:
        cluster.fedkube("delete", "dry")
        cluster.kubectl("delete", "configmap", config["metadata"]["name"])


def test_a_stream_of_logs_and_a_watch_outlive_the_server_pod(
    cluster: Cluster, start: Callable[..., str]
) -> None:
    run = start(rounds=600)
    logs, watch = cluster.begin("logs", run, "--stream"), cluster.begin("watch", run)
    cluster.until(lambda: cluster.status(run)["round"] >= 2, "second round")
    (first,) = cluster.running_pods(run, "server")
    cluster.kubectl("delete", first, "--grace-period=1")
    said, why = logs.communicate(timeout=240)
    assert logs.returncode == 0, why
    seen = re.findall(r"log of pod (\S+)", why)
    assert len(seen) == 2, why
    assert f"pod/{seen[0]}" == first
    assert "[ROUND 600/600]" in said
    # The second pod has gone on, and not begun again.
    assert "replies of earlier are there" in said
    assert "Strategy execution finished" in said
    shown, _ = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert "Succeeded" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pull_that_is_broken_off_leaves_no_pod(
    cluster: Cluster, start: Callable[..., str], tmp_path: Path, number: int
) -> None:
    run = start("--watch")
    pull = cluster.begin("pull", run, "--out", str(tmp_path / "out"))
    cluster.until(lambda: readers(cluster, run), "reader pod", every=0.05)
    pull.send_signal(number)
    _, err = pull.communicate(timeout=60)
    if pull.returncode != 0:  # it may have been quicker
        assert pull.returncode == 130, err
        assert list((tmp_path / "out").iterdir()) == []
    cluster.until(lambda: not readers(cluster, run), "end of the reader", 30)


@pytest.fixture
def stranger(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The kubeconfig of an account that may do nothing."""
    account: dict[str, Any] = {"apiVersion": "v1", "metadata": {"name": "stranger"}}
    token = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": "stranger-token",
            "annotations": {"kubernetes.io/service-account.name": "stranger"},
        },
    }
    cluster.apply(account | {"kind": "ServiceAccount"}, token)

    def issued() -> Any:
        words = ("get", "secret", "stranger-token", "-o", "jsonpath={.data.token}")
        return cluster.kubectl(*words)

    secret = base64.b64decode(cluster.until(issued, "token")).decode()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"] = [{"name": "stranger", "user": {"token": secret}}]
    for context in config["contexts"]:
        context["context"]["user"] = "stranger"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    yield tmp_path / "kubeconfig"
    for kind, name in (
        ("rolebinding", "stranger"), ("role", "fedkube-user"), ("secret", "stranger-token"),
        ("serviceaccount", "stranger"),
    ):  # fmt: skip
        cluster.kubectl("delete", kind, name, "--ignore-not-found")


def test_a_right_that_is_missing_is_named_and_the_hint_gives_it(
    cluster: Cluster, stranger: Path
) -> None:
    def ls() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FEDKUBE, "ls", "-n", SPACE],
            capture_output=True,
            text=True,
            check=False,
            env={**cluster.environment, "KUBECONFIG": str(stranger)},
        )

    refused = ls()
    assert refused.returncode == 5
    account = f"system:serviceaccount:{SPACE}:stranger"
    assert f"you ({account}) may not list federatedruns.fedkube.io" in refused.stderr
    command = re.search(r"kubectl (create role .*)", refused.stderr)
    assert command is not None, refused.stderr
    words = [word for word in command[1].split() if word not in ("-n", SPACE)]
    cluster.kubectl(*words)
    cluster.kubectl(
        *("create", "rolebinding", "stranger", "--role=fedkube-user"),
        f"--serviceaccount={SPACE}:stranger",
    )
    cluster.until(lambda: ls().returncode == 0, "right", 20)

"""Whole runs on the cluster that KUBECONFIG names: real pods, from the images, by the chart.

``make e2e`` runs them; the images fedkube-client, fedkube-coordinator and fedkube-digits of this
version have to be where the cluster finds them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest

ROOT = Path(__file__).parents[2]
FEDKUBE = str(Path(sys.executable).parent / "fedkube")
SPACE = "fedkube-e2e"
IMAGE = "fedkube-digits:0.1.0"
KINDS = "pods,jobs,services,secrets,configmaps,persistentvolumeclaims,networkpolicies,pdb"

pytestmark = [
    pytest.mark.skipif(
        "FEDKUBE_E2E" not in os.environ,
        reason="needs a cluster with the images: set KUBECONFIG and run `make e2e`",
    ),
    pytest.mark.timeout(400),
]


def kubectl(*words: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["kubectl", "-n", SPACE, *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def fedkube(*words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FEDKUBE, *words, "-n", SPACE], capture_output=True, text=True, timeout=timeout, check=False
    )


def status(run: str) -> dict[str, Any]:
    done = fedkube("get", run, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until(holds: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        if found := holds():
            return found
        assert time.monotonic() < deadline, f"no {what} in {seconds} s\n" + kubectl("get", "all")
        time.sleep(0.3)


def pods(run: str, role: str) -> list[str]:
    labels = f"fedkube.io/run={run},fedkube.io/role={role}"
    return kubectl("get", "pods", "-l", labels, "-o", "name").split()


def running_pods(run: str, role: str) -> list[str]:
    labels = f"fedkube.io/run={run},fedkube.io/role={role}"
    phase = "--field-selector=status.phase=Running"
    return kubectl("get", "pods", "-l", labels, phase, "-o", "name").split()


@pytest.fixture(scope="module", autouse=True)
def chart() -> Iterator[None]:
    config = helm_python.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=SPACE)
    config.install(
        helm_python.Chart.load(str(ROOT / "helm" / "fedkube")),
        "fedkube",
        {},
        namespace=SPACE,
        create_namespace=True,
        wait="legacy",
        timeout=120,
    )
    yield
    kubectl("delete", "federatedruns", "--all")
    config.uninstall("fedkube", wait="legacy", timeout=60)
    kubectl("delete", "namespace", SPACE, "--wait=false")


@pytest.fixture
def submit() -> Iterator[Callable[..., str]]:
    names: list[str] = []

    def begin(name: str, *words: str, rounds: int = 3) -> str:
        names.append(name)
        done = fedkube(
            *("submit", str(ROOT / "examples" / "digits"), "--image", IMAGE, "--name", name),
            *("--seed", "7", "--clients", "10", "--workers", "2"),
            *("-c", f"num-server-rounds={rounds}", *words),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return name

    yield begin
    for name in names:
        kubectl("delete", "federatedrun", name, "--ignore-not-found")


def wait_for_end(run: str, seconds: float = 240) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found = status(run)
        return found if found["state"] in ("Succeeded", "Failed", "Stopped") else None

    found: dict[str, Any] = until(ended, "end", seconds)
    return found


def local_digest(folder: Path, rounds: int) -> str:
    """Of the model that the same run gives on this machine."""
    done = subprocess.run(
        [
            *(FEDKUBE, "run", str(ROOT / "examples" / "digits"), "--seed", "7", "--clients", "10"),
            *("--workers", "2", "-c", f"num-server-rounds={rounds}", "--out", str(folder)),
            *("--json", "--no-progress"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    digest: str = json.loads(done.stdout.splitlines()[-1])["model"]["sha256"]
    return digest


def test_a_run_gives_the_model_that_it_gives_on_a_laptop(
    submit: Callable[..., str], tmp_path: Path
) -> None:
    run = submit("same", "--watch")
    done = fedkube("pull", run, "--out", str(tmp_path / "pulled"))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "pulled" / "run.json").read_text())
    assert (record["state"], record["rounds"]) == ("Succeeded", 3)
    assert (tmp_path / "pulled" / "model.safetensors").stat().st_size > 100_000
    assert record["model"]["sha256"] == local_digest(tmp_path / "local", 3)
    shown = kubectl("get", "federatedrun", run).splitlines()
    assert shown[0].split() == ["NAME", "STATE", "ROUND", "CLIENTS", "GPUS", "ETA", "AGE"]
    assert shown[1].split()[:4] == [run, "Succeeded", "3/3", "10"]
    events = kubectl("get", "events", "--field-selector", f"involvedObject.name={run}")
    assert "Completed" in events


def test_pods_run_as_nobody_in_particular(submit: Callable[..., str]) -> None:
    run = submit("nonroot", rounds=20)
    for role in ("server", "worker"):
        (pod, *_) = until(lambda role=role: running_pods(run, role), f"{role} pod")
        assert kubectl("exec", pod, "--", "id", "-u").strip() == "10001"
        refused = kubectl("exec", pod, "--", "sh", "-c", "touch /opt/x || echo refused")
        assert "refused" in refused
        token = "ls /var/run/secrets/kubernetes.io 2>/dev/null || echo none"
        assert "none" in kubectl("exec", pod, "--", "sh", "-c", token)


@pytest.mark.parametrize("role", ["server", "worker"])
def test_a_pod_that_is_deleted_in_mid_round_is_replaced(
    submit: Callable[..., str], role: str, tmp_path: Path
) -> None:
    run = submit(f"kill-{role}", rounds=12)
    until(lambda: status(run)["round"] >= 2, "second round")
    before = running_pods(run, role)
    kubectl("delete", before[0], "--grace-period=1")
    found = wait_for_end(run)
    assert found["state"] == "Succeeded", found
    assert found["round"] == 12
    if role == "server":
        assert set(pods(run, role)) - set(before), "another pod took its place"
    assert found["model"]["sha256"] == local_digest(tmp_path / "local", 12)


def test_the_coordinator_may_die_at_any_moment(submit: Callable[..., str]) -> None:
    run = submit("orphan", rounds=12)
    for _ in range(3):
        time.sleep(1.5)
        kubectl(
            *("delete", "pod", "-l", "app.kubernetes.io/component=coordinator"),
            *("--grace-period=0", "--force"),
        )
    found = wait_for_end(run)
    assert (found["state"], found["round"]) == ("Succeeded", 12)
    assert len(pods(run, "server")) == 1, "there was never a second server"


def test_deleting_a_run_leaves_nothing(submit: Callable[..., str]) -> None:
    run = submit("gone", rounds=50)
    until(lambda: running_pods(run, "worker"), "worker")
    assert fedkube("delete", run).returncode == 0
    until(
        lambda: not kubectl("get", KINDS, "-l", f"fedkube.io/run={run}", "-o", "name").strip(),
        "end of the last object",
        60,
    )


def test_a_run_that_is_stopped_has_no_workers_until_it_is_resumed(
    submit: Callable[..., str],
) -> None:
    run = submit("pause", rounds=12)
    until(lambda: running_pods(run, "worker"), "worker")
    assert fedkube("stop", run).returncode == 0
    until(lambda: status(run)["state"] == "Suspended", "pause")
    until(lambda: not running_pods(run, "worker"), "end of the workers", 60)
    assert running_pods(run, "server")
    assert fedkube("resume", run).returncode == 0
    assert wait_for_end(run)["state"] == "Succeeded"


def test_an_image_that_is_not_there_is_named() -> None:
    kubectl(
        "apply",
        "-f",
        "-",
        stdin=json.dumps(
            {
                "apiVersion": "fedkube.io/v1alpha1",
                "kind": "FederatedRun",
                "metadata": {"name": "noimage"},
                "spec": {"app": {"image": "not-there:1"}, "pool": {"clients": 2}},
            }
        ),
    )

    def told() -> bool:
        return any(
            "not-there:1 cannot be pulled" in each["message"]
            for each in status("noimage")["conditions"]
        )

    until(told, "condition")
    kubectl("delete", "federatedrun", "noimage")


@pytest.mark.parametrize(
    "spec",
    [{}, {"pool": {"clients": 1}}, {"pool": {"clients": 2, "workers": 0}}, {"pool": "ten"}],
    ids=["no pool", "one client", "no workers", "no object"],
)
def test_an_object_that_will_not_do_is_refused_at_admission(spec: dict[str, Any]) -> None:
    body = {
        "apiVersion": "fedkube.io/v1alpha1",
        "kind": "FederatedRun",
        "metadata": {"name": "bad"},
        "spec": spec,
    }
    done = subprocess.run(
        ["kubectl", "-n", SPACE, "apply", "-f", "-"],
        input=json.dumps(body),
        capture_output=True,
        text=True,
        check=False,
    )
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
def test_what_the_coordinator_may_do(verb: str, what: str, where: str, may: bool) -> None:
    account = f"system:serviceaccount:{SPACE}:fedkube-coordinator"
    done = subprocess.run(
        ["kubectl", "-n", where, "auth", "can-i", verb, what, "--as", account],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == ("yes" if may else "no")

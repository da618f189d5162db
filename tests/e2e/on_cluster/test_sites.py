"""Sites on a cluster: each has a pod and a volume of its own, and sees no other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from on_cluster import POD_GONE, ROOT, Cluster, federated_run

from fedkube.app import bundle

SITES = {"north": 3.0, "south": 5.0}


def claim(site: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": f"{site}-data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "10Mi"}},
        },
    }


def writer(site: str, value: float, image: str) -> dict[str, Any]:
    """What puts a site's data where they are."""
    container = {
        "name": "writer",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", f"echo {value} > /data/value.txt; touch /data/of-{site}"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": f"{site}-data"}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{site}-writer"},
        "spec": {"template": {"spec": pod}},
    }


@pytest.fixture(scope="module")
def app(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The sites' volumes, with something in them, and where the app is."""
    packed, sha256 = bundle.pack(ROOT / "tests" / "apps" / "nodes")
    file = tmp_path_factory.mktemp("app") / "app.zip"
    file.write_bytes(packed)
    cluster.kubectl("create", "configmap", "nodes-app", f"--from-file=app.zip={file}")
    image = cluster.image("fedkube-client")
    for site, value in SITES.items():
        cluster.apply(claim(site), writer(site, value, image))
    for site in SITES:
        cluster.kubectl("wait", "--for=condition=complete", f"job/{site}-writer", "--timeout=100s")
    yield {"bundle": {"configMap": "nodes-app", "sha256": sha256}}
    cluster.kubectl("delete", "configmap", "nodes-app")
    for site in SITES:
        cluster.kubectl("delete", "job", f"{site}-writer")
        cluster.kubectl("delete", "pvc", f"{site}-data", "--wait=false")


def silos(name: str, app: dict[str, Any], **spec: Any) -> dict[str, Any]:
    sites = [
        {
            "name": "north",
            "data": {"claim": "north-data"},
            "nodeConfig": {"data": "/data", "site": "north"},
        },
        {
            "name": "south",
            "data": {"claim": "south-data", "mountPath": "/mnt/own"},
            "nodeConfig": {"data": "/mnt/own", "site": "south"},
        },
    ]
    return federated_run(name, {"app": app, "seed": 3, "sites": sites} | spec)


def result(cluster: Cluster, run: str) -> dict[str, Any]:
    """What the app printed after RESULT."""
    (line,) = [
        each for each in cluster.fedkube("logs", run).stdout.splitlines() if "RESULT " in each
    ]
    found: dict[str, Any] = json.loads(line.partition("RESULT ")[2])
    return found


def test_each_site_sees_its_own_data_and_no_other(
    cluster: Cluster, app: dict[str, Any], tmp_path: Path
) -> None:
    cluster.apply(silos("silos", app))
    found = cluster.wait_for_end("silos")
    assert (found["state"], found["clients"]) == ("Succeeded", 2), found
    assert result(cluster, "silos") == {
        "mean": 8.0,  # two rounds of (3 + 5) / 2
        "said": {"north": ["of-north", "value.txt"], "south": ["of-south", "value.txt"]},
    }
    done = cluster.fedkube("pull", "silos", "--out", str(tmp_path / "pulled"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "pulled" / "run.json").read_text())["spec"]["sites"] == [*SITES]
    cluster.kubectl("delete", "federatedrun", "silos")
    cluster.until_gone("silos")
    claims = cluster.kubectl("get", "pvc", "-o", "name").split()
    assert {f"persistentvolumeclaim/{site}-data" for site in SITES} <= set(claims)


def test_a_site_whose_node_is_not_there_is_named_and_waited_for(
    cluster: Cluster, app: dict[str, Any]
) -> None:
    body = silos("edge", app)
    nodes = cluster.get("nodes")
    south = nodes[0]["metadata"]["name"]
    body["spec"]["sites"][1]["pod"] = {"nodeSelector": {"example.com/site": "south"}}
    try:
        cluster.apply(body)

        def told() -> str:
            messages = {each["reason"]: each for each in cluster.status("edge")["conditions"]}
            return messages.get("NoNodeFits", {}).get("message", "")

        cluster.until(lambda: "the pod of site south" in told(), "condition")
        assert cluster.status("edge")["round"] == 0, "no round begins without it"
        cluster.kubectl("label", "node", south, "example.com/site=south")
        assert cluster.wait_for_end("edge")["state"] == "Succeeded"
        assert result(cluster, "edge")["mean"] == 8.0
    finally:
        cluster.kubectl("label", "node", south, "example.com/site-")
        cluster.kubectl("delete", "federatedrun", "edge", "--ignore-not-found")


def test_a_site_that_is_banned_in_the_middle_of_a_run_is_left_out(
    cluster: Cluster, app: dict[str, Any]
) -> None:
    """Within seconds its stream ends and its pod goes, and the others' rounds go on."""
    names = ("north", "south", "east")
    body = federated_run(
        "bans",
        {
            "app": app,
            "runConfig": {"num-server-rounds": 100_000},
            "sites": [{"name": name} for name in names],
        },
    )
    try:
        cluster.apply(body)
        cluster.until(lambda: cluster.status("bans").get("round", 0) > 2, "rounds", 120)
        began = time.monotonic()
        done = cluster.fedkube("ban", "bans", "east")
        took = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        assert "and its server knows" in done.stderr
        assert took < 25, f"in force after {took:.1f} s"
        before = cluster.status("bans")["round"]

        def pods() -> list[str]:
            told = cluster.get("pods", "-l", "fedkube.io/run=bans,fedkube.io/role=worker")
            return sorted(pod["metadata"]["labels"]["fedkube.io/site"] for pod in told)

        cluster.until(lambda: pods() == ["north", "south"], "end of the pod of east", POD_GONE)
        cluster.until(lambda: cluster.status("bans")["round"] > before + 2, "further rounds", 60)
        (banned,) = [
            each for each in cluster.status("bans")["conditions"] if each["type"] == "Banned"
        ]
        assert (banned["status"], banned["message"]) == ("True", "left out: east")
        assert "east" in cluster.fedkube("get", "bans").stdout
        assert cluster.fedkube("ban", "bans", "east", "--lift").returncode == 0
        cluster.until(lambda: pods() == sorted(names), "the pod of east again", 60)
        cluster.until(lambda: cluster.status("bans")["workers"] == 3, "its worker", 60)
        assert cluster.fedkube("ban", "bans", "west").returncode == 2
    finally:
        cluster.kubectl("delete", "federatedrun", "bans", "--ignore-not-found")

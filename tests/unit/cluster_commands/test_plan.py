"""``fedkube plan``: what would run where, from a cluster or from a file of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_commands import Commands
from devices import a_claim, a_class, a_gpu, a_slice
from fake_kubernetes import FakeKubernetes, status

Object = dict[str, Any]
GPU = "nvidia.com/gpu"
DIGITS = str(Path(__file__).parents[3] / "examples" / "digits")


def a_node(name: str, gpus: int = 0, **spec: Any) -> Object:
    allocatable = {"cpu": "8", "memory": "32Gi", "pods": "110"} | ({GPU: str(gpus)} if gpus else {})
    ready = [{"type": "Ready", "status": "True"}]
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec,
        "status": {"allocatable": allocatable, "conditions": ready},
    }  # fmt: skip


def a_pod(name: str, node: str, gpus: int, space: str = "other") -> Object:
    container = {"resources": {"limits": {GPU: str(gpus)}}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": space},
        "spec": {"nodeName": node, "containers": [container]}, "status": {"phase": "Running"},
    }  # fmt: skip


NODES = [a_node("a", 1), a_node("b", 4), a_node("c", 8), a_node("d")]


@pytest.fixture
def nodes(tmp_path: Path) -> str:
    path = tmp_path / "nodes.yaml"
    items = [*NODES, a_pod("x", "c", 3)]
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items}))
    return str(path)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no runs/ of earlier ones


def test_from_a_file_without_a_cluster(
    fedkube: Commands, nodes: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    done = fedkube(
        "plan", DIGITS, "--nodes", nodes, "--gpus", "1", "--clients", "64",
        "--client-seconds", "60", "--model-bytes", "1000000", "--format", "json",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert done.json == {
        "workers": 10,
        "clients_per_accelerator": 1,
        "accelerators_free": 10,
        "waves": 7,
        "round_s": 420.0,
        "run_s": 8400.0,
        "bytes_per_round": 30_000_000,
        "placement": [
            {"node": "a", "workers": 1}, {"node": "b", "workers": 4}, {"node": "c", "workers": 5},
        ],
        "why": f"3 nodes with no more {GPU} free, 1 node without {GPU}; 1 more GPU would cut the "
        "round from 7 min to 6 min",
    }  # fmt: skip


def test_with_several_clients_on_each_gpu(fedkube: Commands, nodes: str) -> None:
    done = fedkube(
        "plan", DIGITS, "--nodes", nodes, "--gpus", "1", "--clients-per-gpu", "3", "--clients",
        "64", "--client-seconds", "60", "--format", "json",
    )  # fmt: skip
    found = done.json
    assert (found["workers"], found["clients_per_accelerator"], found["waves"]) == (10, 3, 3)


@pytest.mark.parametrize("live", [True, False])
def test_devices_that_are_claimed(
    kubernetes: FakeKubernetes, fedkube: Commands, tmp_path: Path, live: bool
) -> None:
    gpus = [a_gpu(number) for number in range(4)]
    items = [*NODES, a_class(), a_slice("b", gpus), a_slice("c", gpus), a_claim("b", "gpu-3")]
    path = tmp_path / "devices.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items}))
    plurals = {"DeviceClass": "deviceclasses", "ResourceSlice": "resourceslices"}
    for body in items if live else ():
        plural = plurals.get(body["kind"], f"{body['kind'].lower()}s")
        kubernetes.put(plural, json.loads(json.dumps(body)))
    kubernetes.groups = [{"name": "resource.k8s.io", "versions": [{"version": "v1"}]}]
    source = [] if live else ["--nodes", str(path)]
    done = fedkube(
        "plan", DIGITS, *source, "--gpus", "gpu.nvidia.com=1", "--clients", "64",
        "--client-seconds", "60", "--format", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = done.json
    assert (found["workers"], found["accelerators_free"]) == (7, 7)
    assert found["placement"] == [{"node": "b", "workers": 3}, {"node": "c", "workers": 4}]
    assert "with no more devices of class gpu.nvidia.com free" in found["why"]
    assert (
        "1 more device of class gpu.nvidia.com would cut the round from 10 min to 8 min"
        in (found["why"])
    )


def test_in_words(fedkube: Commands, nodes: str) -> None:
    done = fedkube(
        "plan", DIGITS, "--nodes", nodes, "--gpus", "1", "--clients", "64",
        "--client-seconds", "60", "--rounds", "3",
    )  # fmt: skip
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "digits: 64 clients a round"
    assert lines[1].split() == ["NODE", "WORKERS"]
    assert lines[2].split() == ["a", "1"]
    assert "10 workers, 7 waves, 10 accelerators free" in lines
    assert "time: 7 min 00 s a round, 21 min 00 s in 3 rounds, 3.5 accelerator hours" in lines
    assert lines[-1].startswith("why: 3 nodes with no more")


def test_from_the_cluster_with_its_quotas(fedkube: Commands, kubernetes: FakeKubernetes) -> None:
    for each in NODES:
        kubernetes.put("nodes", each)
    kubernetes.put("pods", a_pod("x", "b", 4))
    done = fedkube("plan", DIGITS, "--gpus", "1", "--clients", "64", "--format", "json")
    assert done.json["workers"] == 9
    assert done.json["round_s"] is None, "nobody knows how long a client takes"
    hard = {f"requests.{GPU}": "2"}
    quota = {"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard}}
    kubernetes.put("resourcequotas", quota)
    done = fedkube("plan", DIGITS, "--gpus", "1", "--clients", "64", "--format", "json")
    assert done.json["workers"] == 2
    assert done.json["why"].startswith(f"the namespace's quota leaves no more {GPU}; ")


def test_what_the_namespaces_limits_have_workers_ask_for(
    fedkube: Commands, kubernetes: FakeKubernetes, tmp_path: Path
) -> None:
    limits = {"limits": [{"type": "Container", "defaultRequest": {"cpu": "3"}}]}
    body = {
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l", "namespace": "ml"},
        "spec": limits,
    }  # fmt: skip
    for each in NODES:
        kubernetes.put("nodes", each)
    kubernetes.put("limitranges", body)
    words = ("plan", DIGITS, "--gpus", "1", "--clients", "64", "--format", "json")
    assert fedkube(*words).json["workers"] == 1 + 2 + 2, "eight cores are two such workers"
    file = tmp_path / "nodes.json"
    file.write_text(json.dumps({"kind": "List", "items": [*NODES, body]}))
    assert fedkube(*words, "--nodes", str(file), "-n", "ml").json["workers"] == 5
    assert fedkube(*words, "--nodes", str(file), "-n", "other").json["workers"] == 13


def test_who_may_not_see_the_nodes_is_told(fedkube: Commands, kubernetes: FakeKubernetes) -> None:
    words = 'nodes is forbidden: User "eve" cannot list resource "nodes" in API group ""'
    kubernetes.refusals.append(
        lambda _m, path: (403, status(403, words)) if path.endswith("/nodes") else None
    )
    done = fedkube("plan", DIGITS)
    assert done.code == 5
    assert "you (eve) may not list nodes" in done.err


def test_a_file_with_a_run(fedkube: Commands, nodes: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    run = {
        "apiVersion": "fedkube.io/v1alpha1", "kind": "FederatedRun", "metadata": {"name": "r"},
        "spec": {
            "runConfig": {"num-server-rounds": 4},
            "cohort": {"fraction": 0.5, "overSelection": 1.5},
            "pool": {
                "clients": 20,
                "pod": {
                    "resources": {"limits": {GPU: 2}},
                    "affinity": {"nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                            {"matchFields": [
                                {"key": "metadata.name", "operator": "NotIn", "values": ["c"]},
                            ]},
                        ]},
                    }},
                },
            },
        },
    }  # fmt: skip
    file.write_text(yaml.safe_dump(run))
    words = ("plan", str(file), "--nodes", nodes, "--client-seconds", "10", "--format", "json")
    found = fedkube(*words).json
    assert found["placement"] == [{"node": "b", "workers": 2}], "two GPUs each, and not on c"
    assert (found["waves"], found["round_s"], found["run_s"]) == (8, 80.0, 320.0), "15 clients"
    assert fedkube(*words, "--clients", "4", "--workers", "1").json["waves"] == 3


def test_sites_have_a_pod_each(fedkube: Commands, nodes: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    site = {"pod": {"nodeSelector": {"site": "x"}}}
    run = {
        "apiVersion": "fedkube.io/v1alpha1", "kind": "FederatedRun", "metadata": {"name": "r"},
        "spec": {"sites": [{"name": "north"}, {"name": "south", **site}]},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(run))
    found = fedkube("plan", str(file), "--nodes", nodes, "--format", "json").json
    assert found["workers"] == 1
    assert found["why"].startswith("4 nodes without the label site=x")
    done = fedkube("plan", str(file), "--nodes", nodes, "--clients", "3")
    assert (done.code, "the run in the file has sites" in done.err) == (2, True)


def test_how_long_clients_took_in_an_earlier_run(
    fedkube: Commands, nodes: str, tmp_path: Path
) -> None:
    done = fedkube(
        "run", DIGITS, "--clients", "2", "--workers", "1", "-c", "num-server-rounds=3",
        "--no-progress",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = fedkube("plan", DIGITS, "--nodes", nodes, "--format", "json", "--clients", "8").json
    assert 0 < found["round_s"] < 60
    (model,) = tmp_path.glob("runs/*/model.safetensors")
    assert found["bytes_per_round"] == model.stat().st_size * 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere",), 3, "nowhere"),
        (("nowhere.yaml",), 2, "cannot read nowhere.yaml"),
        ((DIGITS, "--nodes", "nowhere"), 2, "cannot read nowhere"),
        ((DIGITS, "--nodes", "text"), 2, "text is not what `kubectl get nodes,pods -A -o yaml`"),
        ((DIGITS, "--nodes", "broken"), 2, "broken is neither YAML nor JSON"),
        ((DIGITS, "--nodes", "pods"), 2, "pods has no node in it"),
        ((DIGITS, "--nodes", "odd"), 2, "odd has an object that no cluster has written"),
        ((DIGITS, "--client-seconds", "-1"), 2, "--client-seconds is -1"),
        ((DIGITS, "--client-seconds", "nan"), 2, "--client-seconds is nan"),
        ((DIGITS, "--client-seconds", "inf"), 2, "--client-seconds is inf"),
        ((DIGITS, "--rounds", "0"), 2, "--rounds is 0"),
        ((DIGITS, "--model-bytes", "0"), 2, "--model-bytes is 0"),
        ((DIGITS, "--clients", "1"), 2, "--clients: "),
        ((DIGITS, "--workers", "0"), 2, "--workers: "),
        ((DIGITS, "--gpus", "many"), 2, "--gpus is 'many'"),
        ((DIGITS, "--gpus", "2", "--clients-per-gpu", "2"), 2, "goes with one accelerator a pod"),
        ((DIGITS, "--clients-per-gpu", "2"), 2, "its limits have none"),
    ],
)
def test_bad_input(
    fedkube: Commands, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "text").write_text("just words")
    (tmp_path / "broken").write_text("a: [1,\nb: }")
    (tmp_path / "pods").write_text(json.dumps(a_pod("x", "c", 3)))
    odd = a_node("a") | {"status": {"allocatable": {"cpu": "much"}}}
    (tmp_path / "odd").write_text(json.dumps(odd))
    done = fedkube("plan", *words)
    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.err

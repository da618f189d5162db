"""Which cluster the tests run on, and what they find there: the chart, installed by Helm.

``FEDKUBE_E2E=1`` with ``KUBECONFIG``: that one; the images have to be where it finds them, under
``FEDKUBE_E2E_REGISTRY`` if that is set. Otherwise the one of ``tests/cluster``: as it is when
`make cluster` stood it up; else it is stood up here and taken away at the end, unless
``FEDKUBE_KEEP_CLUSTER=1``. Where there can be none, the tests skip, and the summary says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
from on_cluster import NO_CLUSTER, ROOT, SPACE, Cluster

from tests.cluster import packages, settings, supervisor
from tests.cluster.__main__ import ensure_up, take_down

HERE = Path(__file__).parent


def pytest_itemcollected(item: pytest.Item) -> None:
    # There is one cluster: one process of pytest's has it to itself, beside other tests.
    item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.hookimpl(trylast=True)  # when those that are not wanted are gone from the list
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))
    if mine:
        # The first one waits for the cluster, which may have to be built.
        mine[0].add_marker(pytest.mark.timeout(2400), append=False)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, and kubectl, commands and waiting on it."""
    named = Path(os.environ.get("KUBECONFIG", ""))
    if os.environ.get("FEDKUBE_E2E") == "1" and named.resolve() != settings.KUBECONFIG.resolve():
        if not named.is_file():
            pytest.fail(f"FEDKUBE_E2E=1, but KUBECONFIG names no file: {str(named)!r}")
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            pytest.fail("FEDKUBE_E2E=1, but there is no kubectl on PATH")
        registry = os.environ.get("FEDKUBE_E2E_REGISTRY", "").rstrip("/")
        yield Cluster(named, kubectl, f"{registry}/" if registry else "")
        return
    if reason := packages.why_not():
        pytest.skip(f"{NO_CLUSTER}{reason}")
    # Its tests are what takes longest: it goes before the tests that run beside it.
    os.nice(-10)
    fresh = ensure_up()
    yield Cluster(settings.KUBECONFIG, str(settings.BINARIES / "kubectl"), own=True)
    if fresh and os.environ.get("FEDKUBE_KEEP_CLUSTER") != "1":
        take_down()


@pytest.fixture(scope="session")
def space(cluster: Cluster) -> Iterator[str]:
    """The tests' namespace, fresh, where pods have to fit the standard `restricted`."""
    cluster.kubectl("delete", "namespace", SPACE, "--ignore-not-found", "--timeout=100s")
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": SPACE,
                # Kubernetes 1.20 knows nothing of it; from 1.25 on it is enforced.
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
    )
    yield SPACE
    cluster.kubectl("delete", "namespace", SPACE, "--wait=false")


@pytest.fixture(scope="session")
def helm(cluster: Cluster, space: str) -> helm_python.Config:
    """Helm itself, in the tests' namespace."""
    return helm_python.Config(kubeconfig_path=str(cluster.kubeconfig), namespace=space)


@pytest.fixture(scope="session", autouse=True)
def chart(cluster: Cluster, space: str, helm: helm_python.Config) -> Iterator[dict[str, Any]]:
    """The chart, installed as release `fedkube`; its values."""
    if cluster.own:
        # Whoever installed the chart elsewhere on it before: the definition is the tests' now.
        crd = ("crd", "federatedruns.fedkube.io", "--overwrite")
        by = "meta.helm.sh/release"
        cluster.try_kubectl("annotate", *crd, f"{by}-namespace={space}", f"{by}-name=fedkube")
        cluster.try_kubectl("label", *crd, "app.kubernetes.io/managed-by=Helm")
    registry = cluster.registry.rstrip("/")
    values: dict[str, Any] = (
        {"image": {"registry": registry}, "runs": {"image": {"registry": registry}}}
        if registry
        else {}
    )
    helm.install(
        helm_python.Chart.load(str(ROOT / "helm" / "fedkube")),
        "fedkube",
        values,
        namespace=space,
        wait="legacy",
        timeout=120,
    )
    yield values
    cluster.kubectl("delete", "federatedruns", "--all", "--timeout=100s")
    helm.uninstall("fedkube", wait="legacy", timeout=60)


@pytest.fixture
def kubectl(cluster: Cluster) -> Callable[..., str]:
    return cluster.kubectl


@pytest.fixture
def fedkube(cluster: Cluster) -> Callable[..., subprocess.CompletedProcess[str]]:
    return cluster.fedkube


@pytest.fixture
def status(cluster: Cluster) -> Callable[[str], dict[str, Any]]:
    return cluster.status


@pytest.fixture
def until(cluster: Cluster) -> Callable[..., Any]:
    return cluster.until


@pytest.fixture
def submit(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Submit the digits example under a name, with more words; the run is deleted after."""
    names: list[str] = []

    def begin(name: str, *words: str, rounds: int = 3) -> str:
        names.append(name)
        cluster.submit_digits(name, *words, rounds=rounds)
        return name

    yield begin
    for name in names:
        cluster.kubectl("delete", "federatedrun", name, "--ignore-not-found")


@pytest.fixture
def slow_run(cluster: Cluster) -> Iterator[Callable[..., str]]:
    """A run of four clients of which each sleeps, on two workers; so many seconds a round."""
    names: list[str] = []

    def begin(name: str, rounds: int, seconds: float) -> str:
        names.append(name)
        config = f'mode="ok" sleep={seconds / 2} num-server-rounds={rounds}'
        done = cluster.fedkube(
            *("submit", str(ROOT / "tests" / "apps" / "misbehave"), "--name", name, "--seed", "5"),
            *("--clients", "4", "--workers", "2", "-c", config),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return name

    yield begin
    for name in names:
        cluster.kubectl("delete", "federatedrun", name, "--ignore-not-found")


@pytest.fixture
def daemons(cluster: Cluster) -> Iterator[Callable[[str, str], None]]:
    """``daemons("stop", "apiserver")``, and "start": what was stopped is started after the test."""
    if not cluster.own:
        pytest.skip("the daemons of another's cluster are not to be stopped")
    stopped: set[str] = set()

    def ask(verb: str, name: str) -> None:
        supervisor.ask(verb, name)
        (stopped.add if verb == "stop" else stopped.discard)(name)

    yield ask
    for name in stopped:
        supervisor.ask("start", name)

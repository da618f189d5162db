"""The mirror of a kind of objects, against an API over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_kubernetes import FakeKubernetes, status
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from fedkube.coordinator import mirror
from fedkube.coordinator.cluster import Cluster
from fedkube.coordinator.mirror import Mirror

Object = dict[str, Any]


@pytest.fixture
def api() -> Iterator[FakeKubernetes]:
    fake = FakeKubernetes()
    fake.start()
    yield fake
    if fake.up:
        fake.stop()


@pytest.fixture
def follow(
    api: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Mirror[Any]]]:
    monkeypatch.setattr(mirror, "_PAUSE_S", 0.05)
    monkeypatch.setattr(mirror, "_FORBIDDEN_S", 0.05)
    config.load_kube_config(str(api.kubeconfig(tmp_path / "config")))
    begun: list[Mirror[Any]] = []

    def begin(keep: Callable[[Object], Any] = name, space: str = "ml") -> Mirror[Any]:
        found = Mirror(Cluster(client.ApiClient()), "Pod", space, keep)
        begun.append(found)
        found.start(changed.set)
        return found

    yield begin
    for each in begun:
        each.stop()


changed = threading.Event()


def name(body: Object) -> str:
    return str(body["metadata"]["name"])


def pod(name: str, space: str = "ml", **labels: str) -> Object:
    return {"kind": "Pod", "metadata": {"name": name, "namespace": space, "labels": labels}}


def until(holds: Callable[[], bool]) -> None:
    for _ in range(400):
        if holds():
            return
        changed.wait(0.02)
        changed.clear()
    raise AssertionError("it does not come to hold")


def test_what_is_there_what_comes_and_what_goes(
    api: FakeKubernetes, follow: Callable[..., Mirror[Any]]
) -> None:
    api.put("pods", pod("a"))
    pods = follow()
    until(lambda: pods.now() == ["a"])
    api.put("pods", pod("b"))
    until(lambda: pods.now() == ["a", "b"])
    api.remove("pods", "a")
    until(lambda: pods.now() == ["b"])
    assert sum(path.endswith("/pods") for _, path in api.requests) == 1, "the rest is watched"


def test_nothing_is_known_before_the_list_is_whole(
    api: FakeKubernetes, follow: Callable[..., Mirror[Any]]
) -> None:
    let = threading.Event()
    api.refusals.append(lambda _m, _p: None if let.is_set() else (500, status(500, "not yet")))
    pods = follow()
    assert pods.now() is None
    let.set()
    until(lambda: pods.now() == [])


def test_of_all_namespaces_and_only_what_is_of_interest(
    api: FakeKubernetes, follow: Callable[..., Mirror[Any]]
) -> None:
    for each in (pod("a", "one", kind="x"), pod("b", "two", kind="x"), pod("c", "two")):
        api.put("pods", each)
    pods = follow(lambda body: name(body) if body["metadata"]["labels"] else None, "")
    until(lambda: pods.now() == ["a", "b"])
    api.put("pods", pod("a", "one"))
    until(lambda: pods.now() == ["b"])


def test_an_api_server_that_comes_back_is_asked_for_everything_anew(
    api: FakeKubernetes, follow: Callable[..., Mirror[Any]]
) -> None:
    api.put("pods", pod("a"))
    pods = follow()
    until(lambda: pods.now() == ["a"])
    api.stop()
    api.remove("pods", "a")
    api.put("pods", pod("b"))
    assert pods.now() == ["a"], "what was known holds meanwhile"
    api.start()
    until(lambda: pods.now() == ["b"])


def test_without_the_right_to_see_nothing_is_known(
    api: FakeKubernetes, follow: Callable[..., Mirror[Any]]
) -> None:
    refused = [(403, status(403, "forbidden"))]
    api.refusals.append(lambda _m, _p: refused[0] if refused else None)
    pods = follow()
    until(lambda: api.asked("GET", "pods") > 2)
    assert pods.now() is None
    assert pods.forbidden
    refused.clear()
    until(lambda: pods.now() == [])
    assert not pods.forbidden


def test_an_object_that_nobody_would_write_hides_no_others(
    api: FakeKubernetes, follow: Callable[..., Mirror[Any]]
) -> None:
    def keep(body: Object) -> str:
        if body["metadata"]["labels"]:
            raise RecursionError("odd")
        return name(body)

    api.put("pods", pod("odd", a="b"))
    api.put("pods", pod("usual"))
    found = follow(keep)
    until(lambda: found.now() == ["usual"])
    api.put("pods", pod("odder", a="b"))
    api.put("pods", pod("later"))
    until(lambda: sorted(found.now() or []) == ["later", "usual"])


def test_a_right_that_is_missing_is_looked_for_ever_more_rarely() -> None:
    """An API server that has just begun refuses for a moment what it will allow."""

    class Refusing:
        def listing(self, kind: str, namespace: str) -> None:
            raise ApiException(403, "Forbidden")

    pods: Mirror[str] = Mirror(Refusing(), "Pod", "ml", name)  # type: ignore[arg-type]
    pauses: list[float] = []

    class Noting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            if len(pauses) == 2000:
                self.set()
            return self.is_set()

    pods._stopped = Noting()
    pods._follow()
    assert pauses[:7] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert set(pauses[5:]) == {60.0}

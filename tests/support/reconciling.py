"""The reconciler against a cluster that only remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fedkube.coordinator.elastic import Elastic
from fedkube.coordinator.objects import Defaults
from fedkube.coordinator.reconciler import Reconciler

Object = dict[str, Any]


class FakeCluster:
    """Keeps objects by kind and name; creating what is there changes nothing.

    ``failures``: so many creations fail. ``away``: nothing is answered, and ``refused`` counts.
    """

    policy = "policy/v1"
    has_kueue = False
    devices_version = ""
    calls = 0

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.statuses: list[Object] = []
        self.scaled: dict[str, int] = {}
        self.failures = 0
        self.away = False
        self.refused = 0

    def _answer(self) -> None:
        if self.away:
            self.refused += 1
            raise OSError("the API server is away")

    def create(self, body: Object) -> bool:
        self._answer()
        if self.failures:
            self.failures -= 1
            raise OSError("the API server is away")
        key = (body["kind"], body["metadata"]["name"])
        return self.objects.setdefault(key, body) is body

    def patch(self, kind: str, namespace: str, name: str, change: Object, sub: str = "") -> None:
        self._answer()
        if kind == "FederatedRun":
            self.statuses.append(change["status"])
        else:
            self.scaled[name] = change["spec"]["parallelism"]

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self._answer()
        self.objects.pop((kind, name), None)

    def list(self, kind: str, namespace: str, labels: str = "", fields: str = "") -> list[Object]:
        self._answer()
        return [body for (each, _), body in self.objects.items() if each == kind]

    def names(self, kind: str) -> list[str]:
        return sorted(name for each, name in self.objects if each == kind)


def a_run(name: str = "r", uid: str = "11111111-1", created: str = "1") -> Object:
    return {
        "metadata": {
            "name": name,
            "namespace": "ml",
            "uid": uid,
            "generation": 1,
            "creationTimestamp": created,
        },
        "spec": {"pool": {"clients": 4, "workers": 2}},
    }


def a_job(run: Object, part: str, uid: str) -> Object:
    name = run["metadata"]["name"]
    return {
        "metadata": {
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "name": f"{name}-{part}",
            "namespace": "ml",
            "uid": uid,
            "labels": {"fedkube.io/run": name},
            "ownerReferences": [{"uid": run["metadata"]["uid"]}],
        },
        "spec": {"parallelism": 2},
    }


def an_ended_server(run: Object, job_uid: str) -> Object:
    words = json.dumps({"state": "Succeeded", "message": "done", "rounds": 3})
    ended = {"state": {"terminated": {"exitCode": 0, "message": words}}}
    name = run["metadata"]["name"]
    return {
        "metadata": {
            "name": f"{name}-server-abc",
            "namespace": "ml",
            "labels": {"fedkube.io/run": name, "fedkube.io/role": "server"},
            "ownerReferences": [{"uid": job_uid}],
        },
        "spec": {"containers": [{}]},
        "status": {"containerStatuses": [ended]},
    }


def play(
    cluster: FakeCluster,
    *steps: Callable[[Reconciler], None],
    max_runs: int = 5,
    elastic: Elastic | None = None,
) -> None:
    """Take the steps one after the other, each when the one before has had its effect."""

    async def scenario() -> None:
        defaults = Defaults("i:1")
        reconciler = Reconciler(cluster, defaults, max_runs, elastic)  # type: ignore[arg-type]
        task = asyncio.create_task(reconciler.run())
        for step in steps:
            step(reconciler)
            while reconciler._waiting or reconciler._arrived.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 20))

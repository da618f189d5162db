"""The reconciler against a cluster that only remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from fedkube.coordinator.objects import Defaults
from fedkube.coordinator.reconciler import Reconciler

Object = dict[str, Any]


class FakeCluster:
    """Keeps objects by kind and name; creating what is there changes nothing."""

    policy = "policy/v1"
    calls = 0

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.statuses: list[Object] = []
        self.scaled: dict[str, int] = {}
        self.failures = 0

    def create(self, body: Object) -> bool:
        if self.failures:
            self.failures -= 1
            raise OSError("the API server is away")
        key = (body["kind"], body["metadata"]["name"])
        return self.objects.setdefault(key, body) is body

    def patch(self, kind: str, namespace: str, name: str, change: Object, sub: str = "") -> None:
        if kind == "FederatedRun":
            self.statuses.append(change["status"])
        else:
            self.scaled[name] = change["spec"]["parallelism"]

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.objects.pop((kind, name), None)

    def list(self, kind: str, namespace: str, labels: str = "", fields: str = "") -> list[Object]:
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


def play(cluster: FakeCluster, *steps: Callable[[Reconciler], None], max_runs: int = 5) -> None:
    """Take the steps one after the other, each when the one before has had its effect."""

    async def scenario() -> None:
        reconciler = Reconciler(cluster, Defaults("i:1"), max_runs)  # type: ignore[arg-type]
        task = asyncio.create_task(reconciler.run())
        for step in steps:
            step(reconciler)
            while reconciler._waiting or reconciler._arrived.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_run_gets_all_that_it_needs_once() -> None:
    cluster, run = FakeCluster(), a_run()
    play(cluster, lambda it: it.saw_run(run, False), lambda it: it.saw_run(run, False))
    assert cluster.names("Job") == ["r-server", "r-workers"]
    assert cluster.names("Secret") == ["r-tls"]
    assert len(cluster.statuses) == 1, "what is the same is not written again"


def test_a_coordinator_that_begins_again_makes_no_second_server() -> None:
    cluster, run = FakeCluster(), a_run()
    play(cluster, lambda it: it.saw_run(run, False))
    before = dict(cluster.objects)
    play(cluster, lambda it: it.saw_run(run, False))
    same = {key: each for key, each in cluster.objects.items() if key[0] != "Event"}
    assert all(before[key] is each for key, each in same.items())


def test_an_object_that_somebody_deletes_comes_back() -> None:
    cluster, run = FakeCluster(), a_run()
    service = {"metadata": {"name": "r-server", "namespace": "ml"}}
    service["metadata"]["labels"] = {"fedkube.io/run": "r"}  # type: ignore[assignment]

    def lose(it: Reconciler) -> None:
        del cluster.objects["Service", "r-server"]
        it.saw_child("Service", service, True)

    play(cluster, lambda it: it.saw_run(run, False), lose)
    assert cluster.names("Service") == ["r-server"]


def test_the_oldest_runs_go_first_and_the_others_wait() -> None:
    cluster = FakeCluster()
    runs = [a_run(f"r{n}", f"{n}" * 8, created=f"{9 - n}") for n in range(3)]

    def all_arrive(it: Reconciler) -> None:
        for each in runs:
            it.saw_run(each, False)

    play(cluster, all_arrive, max_runs=1)
    assert cluster.names("Job") == ["r2-server", "r2-workers"]
    assert [each["status"]["state"] for each in runs] == ["Queued", "Queued", "Pending"]


def test_a_suspended_run_holds_up_nobody() -> None:
    cluster = FakeCluster()
    older, newer = a_run("old", "0" * 8, "1"), a_run("new", "1" * 8, "2")
    older["spec"]["suspend"] = True

    def both_arrive(it: Reconciler) -> None:
        it.saw_run(older, False)
        it.saw_run(newer, False)

    play(cluster, both_arrive, max_runs=1)
    assert cluster.names("Job") == ["new-server", "new-workers"]


@pytest.mark.parametrize(
    ("change", "complaint", "workers"),
    [
        ({"pool": {"clients": 4, "workers": 3}}, None, 3),
        ({"pool": {"clients": 9, "workers": 3}}, "pool cannot be changed", 3),
        ({"pool": {"clients": 4, "workers": 2}, "seed": 3}, "seed cannot be changed", None),
        ({"pool": {"clients": 1}}, "spec.pool.clients", None),
    ],
    ids=["workers", "clients", "seed", "invalid"],
)
def test_a_run_that_has_begun_goes_on_as_it_was_begun(
    change: Object, complaint: str | None, workers: int | None
) -> None:
    cluster, run = FakeCluster(), a_run()

    def edit(it: Reconciler) -> None:
        for part in ("server", "workers"):
            job = cluster.objects["Job", f"r-{part}"]
            job["metadata"] |= {"uid": part, "creationTimestamp": "2026-01-01T00:00:00Z"}
            it.saw_child("Job", job, False)
        run["spec"] = change
        run["metadata"]["generation"] = 2
        it.saw_run(run, False)

    play(cluster, lambda it: it.saw_run(run, False), edit)
    assert run["status"]["state"] == "Pending"
    assert run["status"]["observedGeneration"] == 2
    told = {each["type"]: each for each in run["status"]["conditions"]}
    if complaint is None:
        assert "SpecInForce" not in told
    else:
        assert told["SpecInForce"]["status"] == "False"
        assert complaint in told["SpecInForce"]["message"]
    assert cluster.scaled == ({"r-workers": workers} if workers else {})


def test_the_end_of_one_run_is_the_beginning_of_another() -> None:
    cluster, first, second = FakeCluster(), a_run("a", "a" * 8), a_run("b", "b" * 8)

    def end_the_first(it: Reconciler) -> None:
        it.saw_child("Job", a_job(first, "server", "j"), False)
        it.saw_child("Pod", an_ended_server(first, "j"), False)

    play(
        cluster,
        lambda it: it.saw_run(first, False),
        lambda it: it.saw_run(second, False),
        end_the_first,
        max_runs=1,
    )
    assert first["status"]["state"] == "Succeeded"
    assert second["status"]["state"] == "Pending"


def test_what_an_earlier_run_of_the_name_has_left_is_not_this_ones() -> None:
    cluster, old, new = FakeCluster(), a_run(uid="0000000f-1"), a_run(uid="0000000e-1")

    def leftovers(it: Reconciler) -> None:
        it.saw_child("Job", a_job(old, "server", "old-job"), False)
        it.saw_child("Pod", an_ended_server(old, "old-job"), False)
        it.saw_child("Job", a_job(new, "server", "new-job"), False)

    play(cluster, lambda it: it.saw_run(new, False), leftovers)
    assert new["status"]["state"] == "Pending"


def test_what_fails_is_tried_again() -> None:
    cluster, run = FakeCluster(), a_run()
    cluster.failures = 1
    play(
        cluster,
        lambda it: it.saw_run(run, False),
        lambda it: it.look_at(("ml", "r")),  # as the timer does
    )
    assert cluster.names("Job") == ["r-server", "r-workers"]


def test_a_run_that_is_being_deleted_gets_nothing() -> None:
    cluster, run = FakeCluster(), a_run()
    run["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    play(cluster, lambda it: it.saw_run(run, False))
    assert cluster.objects == {}


def test_an_object_that_will_not_do_fails_until_it_is_corrected() -> None:
    cluster, run = FakeCluster(), a_run()
    run["spec"]["pool"]["clients"] = 1

    def correct(it: Reconciler) -> None:
        run["spec"]["pool"]["clients"] = 2
        run["metadata"]["generation"] = 2
        it.saw_run(run, False)

    play(cluster, lambda it: it.saw_run(run, False))
    assert run["status"]["state"] == "Failed"
    assert cluster.names("Job") == []
    play(cluster, correct)
    assert cluster.names("Job") == ["r-server", "r-workers"]

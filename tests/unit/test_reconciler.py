"""The reconciler against a cluster that only remembers what it was asked."""

from __future__ import annotations

from typing import Any

import pytest
from reconciling import FakeCluster, Object, a_job, a_run, an_ended_server, play

from fedkube.coordinator.reconciler import Reconciler


def test_a_run_gets_all_that_it_needs_once() -> None:
    cluster, run = FakeCluster(), a_run()
    play(cluster, lambda it: it.saw_run(run, False), lambda it: it.saw_run(run, False))
    assert cluster.names("Job") == ["r-server", "r-workers"]
    assert cluster.names("Secret") == ["r-tls"]
    assert len(cluster.statuses) == 1, "what is the same is not written again"


def test_what_the_watch_brings_while_a_status_is_written_is_of_before() -> None:
    cluster, run = FakeCluster(), a_run()
    written = cluster.patch

    def begin(it: Reconciler) -> None:
        def patch(*arguments: Any) -> None:
            if not cluster.statuses:
                it.saw_run(a_run(), False)
            written(*arguments)

        cluster.patch = patch  # type: ignore[method-assign]
        it.saw_run(run, False)

    play(cluster, begin)
    assert len(cluster.statuses) == 1, "it is not written again"


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


DEVICES = {"pool": {"clients": 4, "pod": {"devices": {"gpu.nvidia.com": 1}}}}


def test_a_run_that_claims_devices() -> None:
    cluster, run = FakeCluster(), a_run()
    cluster.devices_version = "v1"
    run["spec"] = DEVICES
    play(cluster, lambda it: it.saw_run(run, False))
    assert cluster.names("ResourceClaimTemplate") == ["r-workers-devices"]
    template = cluster.objects["ResourceClaimTemplate", "r-workers-devices"]
    assert template["spec"]["spec"]["devices"]["requests"] == [
        {
            "name": "devices-0",
            "exactly": {
                "deviceClassName": "gpu.nvidia.com",
                "allocationMode": "ExactCount",
                "count": 1,
            },
        }
    ]
    assert template["spec"]["metadata"]["labels"]["fedkube.io/run"] == "r"


def test_a_cluster_that_gives_out_no_devices_by_claims() -> None:
    cluster, run = FakeCluster(), a_run()
    run["spec"] = DEVICES
    play(cluster, lambda it: it.saw_run(run, False))
    assert run["status"]["state"] == "Failed"
    (told,) = run["status"]["conditions"]
    assert told["reason"] == "InvalidSpec"
    assert "this cluster has no resource.k8s.io" in told["message"]
    assert not cluster.names("Job")


@pytest.mark.parametrize(
    "slip",
    [
        {},
        {"banned": ["east", "typo"]},
        {"cohort": {"minimum": 0}},
        {"sites": [{"name": "north"}, {"name": "west"}], "banned": ["east", "west"]},
    ],
    ids=["", "a stranger", "invalid", "other sites"],
)
def test_a_site_is_banned_in_a_run_that_has_begun(slip: Object) -> None:
    """Whatever else its object says by then."""
    cluster, run = FakeCluster(), a_run()
    run["spec"] = {"sites": [{"name": "north"}, {"name": "south"}, {"name": "east"}]}

    def edit(it: Reconciler) -> None:
        for part in ("server", "site-north", "site-south", "site-east"):
            job = cluster.objects["Job", f"r-{part}"]
            job["metadata"] |= {"uid": part, "creationTimestamp": "2026-01-01T00:00:00Z"}
            it.saw_child("Job", job, False)
        run["spec"] = run["spec"] | {"banned": ["east"]} | slip
        run["metadata"]["generation"] = 2
        it.saw_run(run, False)

    play(cluster, lambda it: it.saw_run(run, False), edit)
    assert cluster.scaled == {"r-site-east": 0}
    told = {each["type"]: each["reason"] for each in run["status"]["conditions"]}
    assert told["Banned"] == "BeingTold"
    assert ("SpecInForce" in told) == bool(slip)


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

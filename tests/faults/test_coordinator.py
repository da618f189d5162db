"""Coordinators that are stopped, doubled, cut off from the API server or begun again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from api_server import ApiServer
from kubernetes import client
from reconciling import FakeCluster, Object, a_job, a_run, an_ended_server, play

from fedkube.coordinator import election, health
from fedkube.coordinator.cluster import Cluster
from fedkube.coordinator.reconciler import Reconciler
from fedkube.core.errors import Environment

HOUR, TEN_YEARS = 3600.0, 10 * 365 * 86400.0
# The library takes none that are shorter.
QUICK = {"_LEASE_S": 3, "_RENEW_S": 2, "_RETRY_S": 1, "_TIMEOUT_S": 0.5}

# A coordinator whose only work is to write now and then that it is there.
LEADER = """
import os, sys, time
from kubernetes import client
from fedkube.coordinator import cluster, election, health
from fedkube.core.errors import Environment

for name, seconds in {quick!r}.items():
    setattr(election, name, seconds)
client.Configuration.set_default(client.Configuration(host="http://127.0.0.1:{port}"))
candidate = election.Election("fedkube-coordinator", "ml", "stopped", health.Pulse())

def lead():
    mine = cluster.Cluster(client.ApiClient(), candidate.holds)
    while True:
        try:
            mine.patch("FederatedRun", "ml", "r", {{"by": "stopped"}}, "status")
        except Environment as error:
            print(error, flush=True)
        time.sleep(0.2)

candidate.run(lead, lambda: os._exit(1))
"""


@pytest.fixture
def api_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    server = ApiServer()
    settings = client.Configuration(host=f"http://127.0.0.1:{server.http.server_port}")
    monkeypatch.setattr(client.Configuration, "_default", settings)
    for name, seconds in QUICK.items():
        monkeypatch.setattr(election, name, seconds)
    yield server
    server.refuses = 503  # so that the threads of the elections end
    server.http.shutdown()
    server.http.server_close()


def stand(name: str) -> tuple[election.Election, threading.Event, threading.Event]:
    """A candidate, and whether it has begun to lead and lost the lease."""
    begun, ended = threading.Event(), threading.Event()
    candidate = election.Election("fedkube-coordinator", "ml", name, health.Pulse())
    threading.Thread(target=candidate.run, args=(begun.set, ended.set), daemon=True).start()
    return candidate, begun, ended


def holder(server: ApiServer) -> str:
    assert server.lease is not None
    name: str = server.lease["spec"]["holderIdentity"]
    return name


def test_a_coordinator_that_is_stopped_past_its_lease_writes_nothing_more(
    api_server: ApiServer,
) -> None:
    """Another leads when it goes on; before it knows, it would have written again."""
    code = LEADER.format(quick=QUICK, port=api_server.http.server_port)
    stopped = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: len(api_server.patches) >= 2, 20)
        seen = len(api_server.patches)
        until(lambda: len(api_server.patches) > seen, 20)
        time.sleep(0.05)  # it sleeps until it writes the next
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # what it was at has come
        written = len(api_server.patches)
        _, begun, _ = stand("other")
        assert begun.wait(20)
        stopped.send_signal(signal.SIGCONT)
        said, _ = stopped.communicate(timeout=10)
        assert stopped.returncode == 1, "it has lost the lease, and ends"
        assert "the lease is over, and another may lead: nothing is written" in said
        assert len(api_server.patches) == written
        assert holder(api_server) == "other"
    finally:
        stopped.kill()
        stopped.communicate()


def test_of_two_coordinators_the_one_with_the_stale_lease_cannot_write(
    api_server: ApiServer,
) -> None:
    """However it comes to that: here, somebody gives its lease to another."""
    candidate, begun, ended = stand("one")
    assert begun.wait(20)
    mine = Cluster(client.ApiClient(), candidate.holds)
    mine.patch("FederatedRun", "ml", "r", {"by": "one"})
    assert api_server.lease is not None
    api_server.lease["spec"]["holderIdentity"] = "other"
    api_server.lease["metadata"]["resourceVersion"] = "99"
    until(lambda: not candidate.holds(), 20)
    for change in (
        lambda: mine.patch("FederatedRun", "ml", "r", {"by": "one"}),
        lambda: mine.create({"kind": "Job", "metadata": {"namespace": "ml", "name": "j"}}),
        lambda: mine.delete("Job", "ml", "j"),
    ):
        with pytest.raises(Environment, match="another may lead"):
            change()
    assert len(api_server.patches) == 1
    assert ended.wait(20), "and it ends"


def test_a_clock_that_jumps_ahead_ends_nobodys_lease(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder may be there still, and be slow."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    api_server.lease = {
        "metadata": {"name": "fedkube-coordinator", "resourceVersion": "1"},
        "spec": {
            "holderIdentity": "slow",
            "leaseDurationSeconds": QUICK["_LEASE_S"],
            "acquireTime": now,
            "renewTime": now,
        },
    }
    _, begun, _ = stand("other")
    until(lambda: api_server.requests, 20)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + HOUR)
    assert not begun.wait(2)
    assert begun.wait(20), "when it has not been renewed for so long"


def test_a_clock_that_jumps_back_lengthens_no_lease(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be renewed any more, and in the middle of trying the clock jumps."""
    candidate, begun, ended = stand("one")
    assert begun.wait(20)
    tried = len(api_server.requests)
    api_server.refuses = 503
    until(lambda: len(api_server.requests) > tried, 20)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - TEN_YEARS)
    assert ended.wait(20)
    until(lambda: not candidate.holds(), 20)


def until(holds: Callable[[], object], within: float) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ------------------------------------------------------------- what a cluster has afterwards


def test_an_api_server_that_is_away_for_ten_minutes_costs_nothing_but_time() -> None:
    """In the middle of a run, and of making another's objects; it is asked every five seconds."""
    cluster, running, new = FakeCluster(), a_run("a", "a" * 8, "1"), a_run("b", "b" * 8, "2")
    play(cluster, lambda it: it.saw_run(running, False))
    before = dict(cluster.objects)

    def go_away_half_done(it: Reconciler) -> None:
        create = cluster.create

        def twice(body: Object) -> bool:
            cluster.away = sum(name.startswith("b-") for _, name in cluster.objects) >= 2
            return create(body)

        cluster.create = twice  # type: ignore[method-assign]
        it.saw_run(new, False)

    def ask_again(it: Reconciler) -> None:
        for key in (("ml", "a"), ("ml", "b")):
            it.look_at(key)

    def come_back(it: Reconciler) -> None:
        del cluster.create  # type: ignore[method-assign]
        cluster.away = False
        ask_again(it)

    tries = 10 * 60 // 5
    play(
        cluster,
        lambda it: it.saw_run(running, False),
        go_away_half_done,
        *[ask_again] * tries,
        come_back,
    )
    assert cluster.refused >= tries
    assert cluster.names("Job") == ["a-server", "a-workers", "b-server", "b-workers"]
    same = {key: each for key, each in before.items() if key[0] != "Event"}
    assert all(cluster.objects[key] is each for key, each in same.items())
    assert new["status"]["state"] == "Pending"


def test_what_happened_while_no_coordinator_looked_is_made_up_for() -> None:
    """The server has ended, and the Service is gone; the run gets no second server."""
    cluster, run = FakeCluster(), a_run()
    play(cluster, lambda it: it.saw_run(run, False))
    del cluster.objects["Service", "r-server"]

    def list_everything(it: Reconciler) -> None:
        it.saw_child("Job", a_job(run, "server", "j"), False)
        it.saw_child("Job", a_job(run, "workers", "w"), False)
        it.saw_child("Pod", an_ended_server(run, "j"), False)
        it.saw_run(run, False)

    created: list[Any] = []
    create = cluster.create
    cluster.create = lambda body: created.append(body) or create(body)  # type: ignore[method-assign]
    play(cluster, list_everything)
    assert run["status"]["state"] == "Succeeded"
    assert [each["kind"] for each in created if each["kind"] == "Job"] == []
    assert "r-workers" not in cluster.names("Job"), "no orphan"

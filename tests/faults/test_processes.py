"""Processes that are stopped, doubled, cut off one way or of another release; real ones."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from faulty_link import Link
from run_processes import Processes, until

from fedkube.api.v1alpha1 import Cohort
from fedkube.core.run_states import RunState


def served(run: Processes) -> list[list[int]]:
    """Of each round, the clients that count; none of them twice."""
    rounds = [each.phases["train"] for each in run.folder.read_history() if each.round]
    assert all(set(Counter(each.clients).values()) == {1} for each in rounds)
    return [sorted(each.clients) for each in rounds]


def test_a_server_that_is_stopped_for_a_while_has_no_successor_and_goes_on(tmp_path):
    """Its lease has no end but its own: the journal's lock, which the kernel keeps for it."""

    async def scenario(run):
        server, port = await run.server()
        run.worker(f"127.0.0.1:{port}")
        await until(run.folder.read_history, "first round")
        server.signal(signal.SIGSTOP)
        await until(lambda: server.stopped, "stop")
        before = contents(run)
        successor, none = await run.server()
        assert (await successor.ends(), none) == (2, 0)
        assert "another process has" in successor.printed
        assert contents(run) == before, "not a byte"
        server.signal(signal.SIGCONT)
        assert await server.ends() == 0
        assert run.folder.read_record().state is RunState.SUCCEEDED
        assert served(run) == [[0, 1]] * 2

    with Processes(tmp_path, 2, sleep=1.0, **{"num-server-rounds": 2}) as run:
        asyncio.run(scenario(run))


def contents(run: Processes) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}


def test_two_processes_with_one_identity_are_one_worker(tmp_path):
    """The newer serves; the older is sent home, and the log says so."""

    async def scenario(run):
        server, port = await run.server()
        older = run.worker(f"127.0.0.1:{port}")
        await older.says("begins")
        newer = run.worker(f"127.0.0.1:{port}")
        assert await older.ends() == 0
        assert await server.ends(40) == 0
        assert await newer.ends() == 0
        assert "worker worker-0 connected again; its older session is closed" in server.printed
        assert served(run) == [[0, 1]]
        assert run.folder.read_history()[-1].phases["train"].failures == []

    with Processes(tmp_path, 2, sleep=3.0, **{"num-server-rounds": 1}) as run:
        asyncio.run(scenario(run))


def test_the_deadline_closes_the_round_of_a_worker_that_is_cut_off_one_way(tmp_path):
    """Nobody is told that what it says does not arrive; the others' updates are enough."""

    async def scenario(run):
        server, port = await run.server()
        cut_off, other = Link(port), Link(port)
        other.up.hold()
        run.worker(await other.open(), "worker-1")
        await run.worker(await cut_off.open()).says("client 0 begins")
        cut_off.up.hold()
        other.up.heal()
        assert await server.ends(60) == 0, server.printed
        assert served(run) == [[1, 2], [0, 1, 2]]
        first, second = (each.phases["train"] for each in run.folder.read_history())
        assert [each.client for each in first.failures] == [0]
        assert "no reply within the round's deadline of 12 s" in first.failures[0].reason
        assert 12 <= first.seconds < 20
        assert second.failures == []
        for each in (cut_off, other):
            await each.close()

    cohort = Cohort(deadline_seconds=12, minimum=2)
    with Processes(tmp_path, 3, cohort, sleep=0.5, **{"num-server-rounds": 2}) as run:
        asyncio.run(scenario(run))


@pytest.mark.parametrize(("leave_s", "twice"), [(20, False), (0, True)])
def test_a_worker_that_has_to_go_ends_what_it_is_at_if_it_may(tmp_path, leave_s, twice):
    """As when a pod makes way for another run's, or its node is drained."""

    async def scenario(run):
        server, port = await run.server()
        first = run.worker(f"127.0.0.1:{port}", "worker-0", leave_s=leave_s)
        await first.says("begins")
        first.signal(signal.SIGTERM)
        assert await first.ends() == 128 + signal.SIGTERM
        second = run.worker(f"127.0.0.1:{port}", "worker-1")
        assert await server.ends() == 0, server.printed
        assert await second.ends() == 0
        assert served(run) == [[0, 1, 2]]
        begun = Counter(re.findall(r"client \d begins", first.printed + second.printed))
        assert (max(begun.values()) == 2) is twice, begun

    with Processes(tmp_path, 3, sleep=1.0, **{"num-server-rounds": 1}) as run:
        asyncio.run(scenario(run))


@pytest.mark.parametrize("leave_s", [1, 20])
def test_who_may_go_on_for_a_while_goes_when_that_is_over_or_at_a_second_signal(tmp_path, leave_s):
    async def scenario(run):
        server, port = await run.server()
        worker = run.worker(f"127.0.0.1:{port}", leave_s=leave_s)
        await worker.says("begins")
        worker.signal(signal.SIGTERM)
        ended = asyncio.create_task(worker.ends(15))
        while leave_s > 15 and not ended.done():  # again and again: two at one moment are one
            await asyncio.sleep(0.5)
            worker.signal(signal.SIGTERM)
        assert await ended == 128 + signal.SIGTERM
        assert server.running

    with Processes(tmp_path, 2, sleep=30.0, **{"num-server-rounds": 1}) as run:
        asyncio.run(scenario(run))


def test_a_client_whose_worker_had_to_go_is_charged_no_attempt(tmp_path):
    """Shares and nodes come and go; a client that takes long must not fail of it."""

    async def scenario(run):
        server, port = await run.server()
        first = run.worker(f"127.0.0.1:{port}", "worker-0", leave_s=1)
        await first.says("begins")
        first.signal(signal.SIGTERM)
        assert await first.ends(15) == 128 + signal.SIGTERM
        run.worker(f"127.0.0.1:{port}", "worker-1")
        assert await server.ends(40) == 0, server.printed
        assert served(run) == [[0]]
        assert run.folder.read_history()[-1].phases["train"].failures == []

    with Processes(tmp_path, 1, sleep=5.0, max_attempts=1, **{"num-server-rounds": 1}) as run:
        asyncio.run(scenario(run))


def test_who_may_go_on_for_a_while_goes_when_nobody_waits_any_more(tmp_path):
    async def scenario(run):
        server, port = await run.server()
        worker = run.worker(f"127.0.0.1:{port}", leave_s=60)
        await worker.says("begins")
        worker.signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        server.kill()
        assert await worker.ends(15) == 128 + signal.SIGTERM

    with Processes(tmp_path, 2, sleep=30.0, **{"num-server-rounds": 1}) as run:
        asyncio.run(scenario(run))


@pytest.mark.parametrize("leave_s", [0, 20])
def test_a_worker_without_work_goes_at_once(tmp_path, leave_s):
    async def scenario(run):
        _, port = await run.server()
        busy = run.worker(f"127.0.0.1:{port}", "worker-0")
        await busy.says("begins")
        idle = run.worker(f"127.0.0.1:{port}", "worker-1", leave_s=leave_s)
        await asyncio.sleep(3)
        idle.signal(signal.SIGTERM)
        assert await idle.ends(15) == 128 + signal.SIGTERM

    with Processes(tmp_path, 1, sleep=30.0, **{"num-server-rounds": 1}) as run:
        asyncio.run(scenario(run))


def test_an_idle_worker_serves_the_client_of_one_that_stands_still_as_well(tmp_path):
    """Nothing tells that a worker was stopped: its connection is there. Others need not wait."""

    async def scenario(run):
        server, port = await run.server()
        slow = run.worker(f"127.0.0.1:{port}", "worker-0")
        await slow.says("client 0 begins")
        run.worker(f"127.0.0.1:{port}", "worker-1")
        # It is known what clients take when three have answered.
        await until(lambda: len(re.findall("begins", slow.printed)) >= 3, "third client")
        slow.signal(signal.SIGSTOP)
        assert await server.ends(40) == 0, server.printed
        slow.signal(signal.SIGCONT)
        assert served(run) == [list(range(12))]
        (phase,) = (each.phases["train"] for each in run.folder.read_history() if each.round)
        assert phase.failures == []

    cohort = Cohort(speculate=True)
    with Processes(tmp_path, 12, cohort, sleep=0.7, **{"num-server-rounds": 1}) as run:
        asyncio.run(scenario(run))


@pytest.mark.parametrize("ahead", [-1, 1])
def test_a_worker_of_another_release_is_sent_away_with_the_reason(tmp_path, ahead):
    """It computes nothing, says why it ends, and the run goes on with others."""

    async def scenario(run):
        server, port = await run.server()
        other = run.worker(f"127.0.0.1:{port}", versions_ahead=ahead)
        assert await other.ends() == 1
        assert "the worker (fedkube 9.9) speaks version" in other.printed
        assert "use the same release of fedkube on both ends" in other.printed
        assert "begins" not in other.printed
        run.worker(f"127.0.0.1:{port}", "worker-1")
        assert await server.ends() == 0, server.printed
        assert served(run) == [[0, 1]]

    with Processes(tmp_path, 2, sleep=0.01, **{"num-server-rounds": 1}) as run:
        asyncio.run(scenario(run))


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="Linux alone has namespaces")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")
@pytest.mark.parametrize("module", ["fedkube_client", "fedkube_server.pod", "fedkube.coordinator"])
def test_who_still_starts_goes_as_the_first_process_of_its_container_too(tmp_path, module):
    """The kernel ignores for such a process whatever signal it does not handle."""
    (tmp_path / "grpc.py").write_text("import time\nprint('imports', flush=True)\ntime.sleep(60)\n")
    contained = ["unshare", "--pid", "--fork", "--kill-child", sys.executable]
    with subprocess.Popen(
        [*contained, "-m", module, "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as outer:
        assert outer.stdout
        assert outer.stdout.readline() == "imports\n"
        (first,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        try:
            assert outer.wait(10) == 128 + signal.SIGTERM
        finally:
            outer.kill()

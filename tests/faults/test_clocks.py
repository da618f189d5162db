"""Clocks that jump, and certificates that end."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import exchange_harness as harness
import grpc
import pytest
from exchange_harness import play
from scripted_worker import Worker, all_frames
from summing import announcement, answer, ask, update

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.control import ControlClient
from fedkube.wire.identity import Role
from fedkube.wire.limits import PROTOCOL

ROOT = Path(__file__).parents[2]


def test_a_run_on_whose_machines_the_clock_jumps_by_hours_and_years(run, apps):
    """Every look at the time of day, on the server and in the clients, finds it elsewhere."""
    ran = run(
        apps / "clocks", "--clients", "4", "--workers", "2", "--cohort", "deadline-seconds=60"
    )
    assert ran.code == 0, ran.text
    assert ran.failures() == []
    assert ran.result == {"values": [4.0]}
    rounds = [each for each in ran.rounds if each.round]
    assert [sorted(each.phases["train"].clients) for each in rounds] == [[0, 1, 2, 3]] * 4
    assert 0 < ran.record.duration_s < 60
    assert all(0 <= each.seconds < 60 for each in rounds)


# Where the time of day is looked at, and what for.
LOOKS = {
    # Of two processes with one name, which is the newer one.
    "clients/fedkube_client/agent.py": 1,
    "server/fedkube_server/relay/upstream.py": 1,
    "server/fedkube_server/main.py": 2,  # when the run began and ended, to be read by people
    "server/fedkube_server/workers.py": 1,  # whether a certificate holds
    "server/fedkube_server/flower/messages.py": 1,  # what Flower says of a message that has failed
}


def test_what_serves_a_round_looks_at_no_time_of_day():
    found = {}
    for package in ("server", "clients", "fedkube/core", "fedkube/wire", "fedkube/store"):
        for path in (ROOT / package).rglob("*.py"):
            looks = len(re.findall(r"\btime\.time\(|\bdatetime\.now\(", path.read_text()))
            if looks:
                found[str(path.relative_to(ROOT))] = looks
    assert found == LOOKS


# ------------------------------------------------------------- certificates that end


@pytest.fixture
def ends_soon():
    """Have an authority issue certificates that hold for so long; others keep theirs."""

    def soon(seconds: float):
        def before(authority) -> None:
            authority._end = datetime.now(UTC) + timedelta(seconds=seconds)

        return before

    return soon


def test_a_stream_ends_with_its_certificate_and_what_was_half_sent_does_not_count(ends_soon):
    async def scenario(server, channel):
        good = channel(name="worker-1")
        worker = Worker(channel(before=ends_soon(5.0)))
        await worker.hello()
        fold = ask(server, 1)
        task, _ = await worker.task()
        await worker.send(reply=announcement(task, update(2.0)))
        assert (await worker.control()).HasField("need")
        await worker.write(all_frames(1, update(2.0))[0])
        code, why = await worker.how_it_ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, "it may have a newer one"
        assert why == "its certificate has expired"
        other = Worker(good, "worker-1")
        await other.hello()
        again, _ = await other.task()
        await answer(other, again, update(1.0))
        assert (fold.weights, float(fold.mean()["w"][0])) == ([1.0], 1.0)
        again = Worker(worker.channel)
        await again.send(hello=pb.Hello(protocol=PROTOCOL, worker="worker-0"))
        assert await again.how_it_ended() == (grpc.StatusCode.PERMISSION_DENIED, why)
        back = Worker(channel())  # which has one of the same time
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await back.hello()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, "TLS refuses it"

    play(scenario)


def test_who_comes_back_with_a_newer_certificate_goes_on(ends_soon):
    async def scenario(server, channel):
        newer = channel()
        worker = Worker(channel(before=ends_soon(5.0)))
        await worker.hello(incarnation="one life")
        ask(server, 1)
        task, _ = await worker.task()
        worker = Worker(newer)
        await worker.hello(incarnation="one life", assignments=[task.assignment])
        await asyncio.sleep(6.2)
        assert not (await answer(worker, task, update(1.0))).refused
        assert (await server.outcome())[0] == 1

    play(scenario)


def test_who_watches_a_run_is_sent_away_too(ends_soon):
    async def scenario(server, channel):
        ends_soon(5.0)(channel.trusted)
        mine = harness.credentials(channel.trusted, Role.OPERATOR, "o")
        control = ControlClient(server.address, mine)
        seen = [snapshot async for snapshot in control.watch()]
        assert len(seen) == 1
        assert not await control.stop("mine", 1)
        assert server.stopped == []
        await control.close()

    play(scenario)

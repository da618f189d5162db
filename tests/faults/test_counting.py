"""What is sent twice, late, out of order or half: it counts once, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import exchange_harness as harness
import grpc
import grpc.aio
import numpy as np
import pytest
from exchange_harness import Server, play
from faulty_link import Link
from fedkube_server import workers
from fedkube_server.calls import Answer
from fedkube_server.landing import Spool
from scripted_worker import Worker, all_frames
from summing import announcement, answer, ask, update

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.identity import Role

ONE, TWO = update(1.0), update(2.0)


def mean_of(fold) -> float:
    values = fold.mean()["w"]
    assert np.ptp(values) == 0
    return float(values[0])


async def joined(channel, name="worker-0", **hello) -> Worker:
    worker = Worker(channel(name=name), name)
    await worker.hello(**hello)
    return worker


def test_an_update_that_is_sent_twice_counts_once():
    """Under the number that it had, and under another; before the next task and with it."""

    async def scenario(server, channel):
        worker = await joined(channel)
        fold = ask(server, 1)
        task, _ = await worker.task()
        assert not (await answer(worker, task, ONE)).refused
        await worker.send(reply=announcement(task, ONE))
        assert not (await worker.settled()).refused, "it hears again that it is settled"
        await worker.send(reply=announcement(task, ONE, upload=2))
        assert "nobody waits" in (await worker.settled()).refused[0].reason
        following = ask(server, 1, base=10)
        again, _ = await worker.task()
        await worker.send(reply=announcement(task, ONE, upload=3))
        assert "nobody waits" in (await worker.settled()).refused[0].reason
        assert not (await answer(worker, again, TWO, upload=4)).refused
        assert (fold.weights, mean_of(fold)) == ([1.0], 1.0)
        assert (following.weights, mean_of(following)) == ([1.0], 2.0)
        assert [(await server.outcome())[0] for _ in range(2)] == [1, 11]
        assert server.silent

    play(scenario)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 1)], ids=str)
def test_chunks_in_another_order_are_refused_and_another_is_asked(order):
    async def scenario(server, channel):
        worker = await joined(channel)
        fold = ask(server, 1)
        task, _ = await worker.task()
        await worker.send(reply=announcement(task, TWO))
        assert (await worker.control()).HasField("need")
        sent = all_frames(1, TWO)
        for index in order:
            await worker.write(sent[index])
        code, why = await worker.how_it_ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "was next" in why
        other = await joined(channel, "worker-1")
        again, _ = await other.task()
        await answer(other, again, ONE)
        assert (fold.weights, mean_of(fold)) == ([1.0], 1.0)

    play(scenario)


def test_chunks_that_are_late_arrive_as_they_were():
    async def scenario(server, channel):
        link = Link(int(server.address.rpartition(":")[2]))
        link.up.delay_s = 0.01
        worker = Worker(channel(address=await link.open()))
        await worker.hello()
        fold = ask(server, 1)
        task, _ = await worker.task()
        data = np.random.default_rng(0).integers(-999, 999, 750_000).astype(np.float32)
        assert not (await answer(worker, task, data.tobytes())).refused
        np.testing.assert_array_equal(fold.mean()["w"], data)
        await link.close()

    play(scenario)


def test_an_acknowledgement_that_is_lost_is_given_again():
    """The server has counted the update, and the worker is cut off before it hears of that."""

    async def scenario(server, channel):
        link = Link(int(server.address.rpartition(":")[2]))
        address = await link.open()
        worker = Worker(channel(address=address))
        await worker.hello(incarnation="one life")
        fold = ask(server, 1)
        task, _ = await worker.task()
        await worker.send(reply=announcement(task, ONE))
        assert (await worker.control()).HasField("need")
        link.down.hold()
        for frame in all_frames(1, ONE):
            await worker.write(frame)
        assert isinstance((await server.outcome())[1], Answer), "it counts"
        link.cut()
        link.down.heal()
        await worker.how_it_ended()
        worker = Worker(channel(address=address))
        await worker.hello(incarnation="one life", assignments=[task.assignment])
        await worker.send(reply=announcement(task, ONE))
        settled = await worker.settled()
        assert (settled.upload, list(settled.refused)) == (1, [])
        assert (fold.weights, mean_of(fold)) == ([1.0], 1.0)
        assert server.silent
        await link.close()

    play(scenario)


def test_an_update_that_an_earlier_life_of_the_server_has_counted_counts_once_in_the_next():
    """The worker never heard that it was settled, and offers it to a server that knows nothing."""

    async def scenario(server, channel):
        worker = await joined(channel, incarnation="one life")
        ask(server, 1)
        task, _ = await worker.task()
        await worker.send(reply=announcement(task, ONE))
        assert (await worker.control()).HasField("need")
        for frame in all_frames(1, ONE):
            await worker.write(frame)
        await server.outcome()
        await server.stop()
        successor = Server(harness.credentials(channel.trusted, Role.SERVER))
        await successor.start()
        worker = Worker(channel(address=successor.address))
        await worker.hello(incarnation="one life", assignments=[task.assignment])
        assert (await worker.control()).cancel.assignments == [task.assignment]
        await worker.send(reply=announcement(task, ONE))
        assert "nobody waits" in (await worker.settled()).refused[0].reason
        fold = ask(successor, 1)
        again, _ = await worker.task()
        await answer(worker, again, ONE, upload=2)
        assert (fold.weights, mean_of(fold)) == ([1.0], 1.0)
        await successor.stop()

    play(scenario)


def test_an_update_of_an_earlier_round_is_refused():
    """Its round was closed at the deadline; the worker sends it when the next is going on."""

    async def scenario(server, channel):
        worker = await joined(channel)
        first = ask(server, 1)
        late, _ = await worker.task()
        server.driver.withdraw([1], pb.Failure.TIMED_OUT, "the round's deadline")
        assert (await worker.control()).cancel.calls == [1]
        second = ask(server, 1, base=10)
        task, _ = await worker.task()
        await worker.send(reply=announcement(late, TWO))
        assert "nobody waits" in (await worker.settled()).refused[0].reason
        assert not (await answer(worker, task, ONE, upload=2)).refused
        assert (first.weights, second.weights, mean_of(second)) == ([], [1.0], 1.0)

    play(scenario)


def test_a_client_that_dies_in_the_middle_of_its_upload_leaves_nothing(monkeypatch, tmp_path):
    """None of its bytes is in the sum, and the place where they were is free again."""
    monkeypatch.setattr(workers, "RESUME_S", 0.3)
    spool = Spool(tmp_path, heap_bytes=0)

    async def scenario(server, channel):
        dying = await joined(channel)
        fold = ask(server, 1)
        task, _ = await dying.task()
        await dying.send(reply=announcement(task, TWO))
        assert (await dying.control()).HasField("need")
        received = server.driver.bytes_up
        await dying.write(all_frames(1, TWO)[0])
        while server.driver.bytes_up == received:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
        assert files_in(tmp_path) == 1
        dying.call.cancel()
        other = await joined(channel, "worker-1")
        again, _ = await other.task()
        spool.close()  # what was given back
        assert files_in(tmp_path) == 0
        await answer(other, again, ONE)
        assert (fold.weights, mean_of(fold)) == ([1.0], 1.0)

    play(scenario, spool=spool)


def files_in(folder: Path) -> int:
    """How many files of the folder this process has open, nameless ones included."""
    targets = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            targets.append(os.readlink(f"/proc/self/fd/{number}"))
    return sum(target.startswith(f"{folder}/") for target in targets)


def test_a_worker_that_is_started_again_fences_its_older_life():
    """What the older one sends from then on counts for nothing, in whatever order it comes."""

    async def scenario(server, channel):
        older = await joined(channel, incarnation="older")
        fold = ask(server, 1)
        task, _ = await older.task()
        await older.send(reply=announcement(task, TWO))
        assert (await older.control()).HasField("need")
        await older.write(all_frames(1, TWO)[0])
        newer = await joined(channel, incarnation="newer")
        again, _ = await newer.task()
        assert again.assignment != task.assignment
        for frame in all_frames(1, TWO)[1:]:
            await older.write(frame)
        await older.how_it_ended()
        assert server.silent
        assert server.driver.workers == 1
        # With the number of the older's assignment, it is no better.
        await newer.send(reply=announcement(task, TWO))
        assert "nobody waits" in (await newer.settled()).refused[0].reason
        assert not (await answer(newer, again, ONE, upload=2)).refused
        assert (fold.weights, mean_of(fold)) == ([1.0], 1.0)

    play(scenario)


def test_a_worker_that_was_stopped_until_it_was_given_up_counts_for_nothing(monkeypatch):
    """It goes on where it was stopped, in the middle of its upload, and knows of nothing."""
    monkeypatch.setattr(workers, "RESUME_S", 0.3)

    async def scenario(server, channel):
        stopped = await joined(channel, incarnation="one life")
        fold = ask(server, 1)
        task, _ = await stopped.task()
        await stopped.send(reply=announcement(task, TWO))
        assert (await stopped.control()).HasField("need")
        await stopped.write(all_frames(1, TWO)[0])
        stopped.call.cancel()  # as keepalive does
        other = await joined(channel, "worker-1")
        again, _ = await other.task()
        assert not (await answer(other, again, ONE)).refused
        back = await joined(channel, incarnation="one life", assignments=[task.assignment])
        assert (await back.control()).cancel.assignments == [task.assignment]
        await back.send(reply=announcement(task, TWO))
        assert "nobody waits" in (await back.settled()).refused[0].reason
        assert (fold.weights, mean_of(fold)) == ([1.0], 1.0)
        assert [(await server.outcome())[0], server.silent] == [1, True]

    play(scenario)

"""Links that let nothing through one way, come and go, or are slow; and all workers at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import exchange_harness as harness
import grpc
import numpy as np
import pytest
from exchange_harness import Server, play
from faulty_link import Link
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings
from fedkube_server import driver, sessions, workers
from fedkube_server.calls import Answer
from fedkube_server.landing import Spool
from run_processes import until
from scripted_worker import Worker, all_frames
from summing import announcement, answer, ask, held, update

from fedkube.app.records import to_values
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, stream
from fedkube.wire.identity import Role
from fedkube.wire.limits import MODERATE_UPLOADS, UPLOADS

ECHO = Path(__file__).parent.parent / "apps" / "echo"
# Updates that are being checked have room as well, and no credit any more.
CHECKED = 32
ONE, TWO = update(1.0), update(2.0)


def link_to(server: Server) -> Link:
    return Link(int(server.address.rpartition(":")[2]))


async def joined(channel, name="worker-0", **of_channel) -> Worker:
    worker = Worker(channel(name=name, **of_channel), name)
    await worker.hello(incarnation=name)
    return worker


def test_a_sum_that_a_worker_cannot_be_asked_for_does_not_hold_up_the_round(monkeypatch):
    """It has served a client and holds the update; then it hears nothing any more."""
    monkeypatch.setattr(driver, "HELD_S", 1.0)

    async def scenario(server, channel):
        link = link_to(server)
        cut_off = await joined(channel, address=await link.open())
        fold = ask(server, 1, 2, size=70)
        task, _ = await cut_off.task()
        assert task.HasField("fold"), "there is more to do, so it is to hold the update"
        link.down.hold()
        await cut_off.send(reply=held(task))
        other = await joined(channel, "worker-1")
        task, _ = await other.task()
        await answer(other, task, update(2.0, 70))
        assert (await server.outcome())[0] == 2
        closed = time.monotonic()
        server.driver.withdraw([1], pb.Failure.TIMED_OUT, "the round's deadline")
        number, outcome = await server.outcome()
        assert (number, outcome.reason) == (1, "the round's deadline")
        assert 0.9 < time.monotonic() - closed < 15
        assert fold.weights == [1.0]
        ask(server, 1, size=70, base=10)
        assert (await other.task())[0].calls[0].id == 11, "the next round goes on without it"
        await link.close()

    play(scenario)


@pytest.mark.parametrize("alive", [True, False])
def test_a_worker_that_is_to_send_its_sum_is_waited_for_as_long_as_it_speaks(monkeypatch, alive):
    monkeypatch.setattr(driver, "HELD_S", 1.0)
    now = [0.0]  # a clock that a machine which stands still does not move
    monkeypatch.setattr(sessions, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def scenario(server, channel):
        worker = await joined(channel)
        ask(server, 1, 2, size=70)
        task, _ = await worker.task()
        await worker.send(reply=held(task))
        await worker.send(ready=pb.Ready())
        assert (await worker.control()).HasField("settled")
        server.driver.withdraw([1, 2], pb.Failure.TIMED_OUT, "the round's deadline")
        assert (await server.outcome())[0] == 2
        for _ in range(9):
            await asyncio.sleep(0.2)
            now[0] += 0.2
            if alive:
                heard = server.driver.bytes_up
                await worker.send(ready=pb.Ready())
                await until(lambda heard=heard: server.driver.bytes_up > heard, "frame")
        if not alive:
            assert (await server.outcome())[0] == 1
        assert server.silent

    play(scenario)


class Echo:
    """A real worker behind a link of its own."""

    def __init__(self, server: Server, trusted, name: str, connect=channels.connect) -> None:
        self._connect = connect
        self.link = link_to(server)
        self._mine = harness.credentials(trusted, Role.WORKER, name)
        self._name = name

    async def start(self) -> Echo:
        settings = AppSettings(ECHO, "echo_app.client_app:app", 1)
        self.address = await self.link.open()
        agent = Agent(self.address, self._name, self._mine, settings, 1 << 30, self._connect)
        self.running = asyncio.create_task(agent.run(30))
        return self


def test_a_link_that_comes_and_goes_is_tried_again_after_waits_that_grow_and_vary(monkeypatch):
    """And what is under way meanwhile counts once."""
    monkeypatch.setattr(stream.random, "uniform", random.Random(1).uniform)
    tries = defaultdict(list)

    def noted(address, mine):
        tries[address].append(time.monotonic())
        return channels.connect(address, mine)

    config = to_values({"change": True, "changed-tensors": 0})

    async def scenario(server, channel):
        peers = [Echo(server, channel.trusted, f"worker-{number}", noted) for number in range(2)]
        for each in peers:
            each.link.refuses = True
            await each.start()
        await until(lambda: min(len(tries[each.address]) for each in peers) >= 5, "fifth try")
        waits = [[b - a for a, b in pairwise(tries[each.address])] for each in peers]
        for each in waits:
            for number, wait in enumerate(each):
                assert 0.1 * 2**number < wait < 0.2 * 2**number + 10
        assert max(abs(a - b) for a, b in zip(*waits, strict=False)) > 0.05, "not in step"
        assert all(len(each.link.connected_at) <= 7 for each in peers), "no storm"
        for each in peers:
            each.link.refuses = False
        values = np.arange(2_000_000, dtype=np.float32)
        server.submit(1, values.tobytes(), dtype="float32")
        flapping = asyncio.create_task(flap([each.link for each in peers]))
        _, outcome = await server.outcome()
        assert isinstance(outcome, Answer), outcome
        np.testing.assert_array_equal(np.frombuffer(outcome.blobs[0], np.float32), values + 1)
        await flapping
        server.submit(2, values.tobytes(), dtype="float32")
        assert (await server.outcome())[0] == 2
        assert server.silent
        server.exchange.close("enough")
        await asyncio.gather(*(each.running for each in peers))
        for each in peers:
            await each.link.close()

    play(scenario, run_config=config)


async def flap(links: list[Link]) -> None:
    """Cut them off again and again, and let them be in the end."""
    for _ in range(6):
        await asyncio.sleep(0.2)
        for link in links:
            link.cut()


def test_a_sender_of_fifty_bytes_a_second_is_sent_away_and_others_do_not_feel_it(monkeypatch):
    """Where the credits are few, and it has one of them."""
    monkeypatch.setattr(sessions, "MIN_RATE_WINDOW_S", 6.0)

    async def scenario(server, channel):
        link = link_to(server)
        slow = await joined(channel, address=await link.open())
        server.exchange._workers._shared.credits.limit = 1
        fold = ask(server, 1)
        task, _ = await slow.task()
        await slow.send(reply=announcement(task, TWO))
        assert (await slow.control()).HasField("need")
        link.up.bytes_per_s = 50
        writing = asyncio.create_task(write(slow, TWO))
        others = [await joined(channel, f"worker-{number}") for number in range(1, 4)]
        fast = ask(server, 2, 3, 4, base=10)
        await asyncio.gather(*(serve(each) for each in others))
        assert server.driver.workers == 4, "it is there still, and they did not wait for it"
        assert fast.weights == [1.0] * 3
        code, why = await slow.how_it_ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, "it may try again"
        assert "bytes a second, and at least 1024 are needed" in why
        writing.cancel()
        again, _ = await others[0].task()
        assert again.calls[0].id == 1
        await answer(others[0], again, ONE, upload=2)
        assert fold.weights == [1.0]
        assert float(fold.mean()["w"][0]) == 1.0
        await link.close()

    async def serve(worker):
        task, _ = await worker.task()
        await answer(worker, task, ONE)

    async def write(worker, data):
        for frame in all_frames(1, data):
            await worker.write(frame)

    play(scenario)


def test_a_peer_that_says_nothing_is_not_kept(monkeypatch):
    """It has a certificate and a connection, and does not say who it is."""
    monkeypatch.setattr(workers, "HELLO_S", 0.5)

    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.call.wait_for_connection()
        code, why = await worker.how_it_ended()
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "said no Hello" in why

    play(scenario)


class CountingSpool(Spool):
    """Knows how many uploads have room at a time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.open = self.most = 0

    def room(self, blobs):
        room = super().room(blobs)
        self.open += 1
        self.most = max(self.most, self.open)
        close = room.close

        def counted() -> None:
            self.open -= 1
            close()

        room.close = counted
        return room


def test_a_thousand_uploads_at_once_take_no_more_memory_than_a_few(tmp_path):
    """All have computed, and offer what they have in the same moment."""
    count, nbytes = 1000, 300_000
    data = bytes(nbytes)
    spool = CountingSpool(tmp_path)

    async def scenario(server, channel):
        settled = []
        server._settled = lambda number, outcome: settled.append((number, type(outcome)))
        wide = [channel(name=f"group-{each}") for each in range(10)]
        peers = [Worker(wide[each % 10], f"group-{each % 10}.{each}") for each in range(count)]
        await asyncio.gather(*(each.hello() for each in peers))
        for each in range(count):
            server.submit(each, b"")
        tasks = await asyncio.gather(*(each.task() for each in peers))
        before = memory("VmRSS")
        begin_peak()
        await asyncio.gather(
            *(offer(each, task) for each, (task, _) in zip(peers, tasks, strict=True))
        )
        assert sorted(settled) == [(each, Answer) for each in range(count)]
        assert spool.open == 0
        assert spool.most <= UPLOADS + MODERATE_UPLOADS + CHECKED
        assert memory("VmHWM") - before < count * nbytes / 5

    async def offer(worker, task):
        await worker.reply(task, data)
        await worker.data(data)
        await worker.settled()

    play(scenario, seconds=60, spool=spool)


def memory(what: str) -> int:
    """Bytes, as the kernel counts them for this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


def begin_peak() -> None:
    """From here on the kernel looks for the most that this process has."""
    Path("/proc/self/clear_refs").write_text("5")

"""A relay over real sockets, between a server and workers that do what a test wants."""

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import exchange_harness as harness
import grpc
import numpy as np
import pytest
from exchange_harness import Server
from faulty_link import Link
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings
from fedkube_client.sums import HeldSum
from fedkube_server.calls import Answer
from fedkube_server.folds import Fold
from fedkube_server.relay.process import Relay
from scripted_worker import Worker, all_frames

from fedkube.app.records import to_values
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, frames
from fedkube.wire.identity import Role
from fedkube.wire.stream import Refused
from fedkube.wire.uploads import Upload, Uploads

ECHO = Path(__file__).parent.parent / "apps" / "echo"
VALUES = np.arange(300_000, dtype=np.float32)


class World:
    """A server, and one relay below it. Workers below that are opened as they are needed."""

    def __init__(self) -> None:
        self.trusted = harness.authority()
        config = to_values({"change": True, "changed-tensors": 0})
        self.server = Server(self.credentials(Role.SERVER), config)
        self._channels: list[object] = []
        self._running: list[asyncio.Task[None]] = []
        self.port = 0  # of the newest relay
        self.ports: dict[str, int] = {}

    def credentials(self, role, name="run"):
        return harness.credentials(self.trusted, role, name)

    async def relay(self, above: str = "", name: str = "relay-0") -> asyncio.Task[None]:
        """Start a relay; again where it was, if it was there."""
        announced = asyncio.get_running_loop().create_future()
        relay = Relay(
            name,
            self.credentials(Role.RELAY, name),
            f"127.0.0.1:{self.ports.get(name, 0)}",
            Path(tempfile.gettempdir()),
            announced.set_result,
        )
        running = asyncio.create_task(relay.run(above or self.server.address, 30))
        await asyncio.wait({running, announced}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        self.port = self.ports[name] = announced.result()
        self.now = relay
        self._running.append(running)
        return running

    def worker(self, name: str, address: str = "", role: Role = Role.WORKER) -> Worker:
        channel = channels.connect(
            address or f"127.0.0.1:{self.port}", self.credentials(role, name)
        )
        self._channels.append(channel)
        return Worker(channel, name)

    def agent(self, name: str, address: str = "") -> Agent:
        """A real worker with the echo app."""
        settings = AppSettings(ECHO, "echo_app.client_app:app", 1)
        agent = Agent(
            address or f"127.0.0.1:{self.port}",
            name,
            self.credentials(Role.WORKER, name),
            settings,
            1 << 30,
        )
        self._running.append(asyncio.create_task(agent.run(30)))
        return agent

    def submit(self, *clients: int, values=VALUES, most: int = 1, call: int = 0) -> Fold:
        """A message for some clients, whose updates are summed. Calls: from ``call`` on."""
        content = pb.Content()
        item = content.records.add(name="arrays").arrays.items.add(name="w", dtype="float32")
        item.shape.append(len(values))
        item.stype = "numpy.ndarray"
        fold = Fold({"w": values.shape}, "num-examples", cohort=len(clients))
        data = memoryview(values.tobytes())
        self.server.submit_all(list(clients), content, [data], fold=fold, most=most, base=call)
        return fold

    async def answered(self, *clients: int) -> None:
        """Each of the clients has answered well, once."""
        done = [await self.server.outcome() for _ in clients]
        assert sorted(number for number, _ in done) == sorted(clients)
        assert all(isinstance(outcome, Answer) for _, outcome in done), done
        assert self.server.silent

    async def close(self) -> None:
        for each in self._running:
            each.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        await self.server.stop()


@asynccontextmanager
async def a_world():
    world = World()
    await world.server.start()
    try:
        yield world
    finally:
        await world.close()


def play(scenario) -> None:
    async def whole() -> None:
        async with a_world() as world:
            await asyncio.wait_for(scenario(world), 60)

    asyncio.run(whole())


async def die(relay: asyncio.Task[None]) -> None:
    """It ends without a goodbye."""
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)


def updated(task: pb.Task, place: int = 0) -> pb.Outcome:
    """The call's outcome: an update of one array, weighing 1."""
    outcome = pb.Outcome(call=task.calls[place].id)
    record = outcome.content.records.add(name="arrays")
    record.arrays.CopyFrom(task.content.records[0].arrays)
    outcome.content.records.add(name="metrics").metrics.items.add(key="num-examples", integer=1)
    return outcome


class Summing:
    """A worker that sums, as far as a test lets it: it may be lost at any moment."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.uploads = Uploads()
        self.sums: dict[int, HeldSum] = {}
        self.sent: dict[int, Upload] = {}
        self.asked = False  # for the sum

    async def serve(self, change: float = 1.0) -> pb.Task:
        """Take the next task, and keep its update, or send it if it is to be sent at once."""
        await self.worker.send(ready=pb.Ready())
        task = await self.next_task()
        await self.keep(task, change)
        if not task.HasField("fold"):
            await self.send()
        return task

    async def serve_all(self, change: float) -> None:
        """Whatever comes, one after the other, and the sums when they are asked for."""
        await self.worker.send(ready=pb.Ready())
        while True:
            frame = await self.worker.frame()
            if frames.is_data(frame):
                continue
            message = frames.read_control(frame, pb.ServerFrame)
            if message.HasField("task"):
                await self.keep(message.task, change)
                await self.worker.send(ready=pb.Ready())
            elif message.HasField("flush"):
                self.asked = True
                if self.sums:
                    await self.announce()
            elif message.HasField("need"):
                await self.send(need=message.need)

    async def next_task(self) -> pb.Task:
        return (await self.until("task")).task

    async def keep(self, task: pb.Task, change: float = 1.0) -> None:
        fresh = memoryview((VALUES + np.float32(change)).tobytes())
        outcome = updated(task)
        reply = pb.Reply(assignment=task.assignment, outcomes=[outcome])
        if task.HasField("fold"):
            sent = memoryview(VALUES.tobytes())
            held = self.sums.setdefault(task.fold.id, HeldSum(task, [sent]))
            assert held.add(reply.outcomes[0], [pb.Blob(nbytes=len(fresh))], [fresh]) is None
            self.uploads.add(reply, [], set())
            await self.worker.send(reply=reply)
        else:
            reply.blobs.add(nbytes=len(fresh))
            self.sent[reply.upload] = self.uploads.add(reply, [[fresh]], set())
            await self.worker.send(reply=reply)

    async def until(self, kind: str) -> pb.ServerFrame:
        """The next frame of this kind, whatever comes before it."""
        while True:
            frame = await self.worker.frame()
            if not frames.is_data(frame):
                message = frames.read_control(frame, pb.ServerFrame)
                self.asked = self.asked or message.HasField("flush")
                if message.HasField(kind):
                    return message

    async def announce(self) -> None:
        """Say what is in the sum, as soon as it is asked for."""
        if not self.asked:
            await self.until("flush")
        self.asked = False
        for held in self.sums.values():
            frame, pieces = held.export()
            self.sent[frame.upload] = self.uploads.add(frame, pieces, held.known)
            await self.worker.send(sum=frame)
        self.sums.clear()

    async def send(self, frames_at_most: int = 1_000, need: pb.Need | None = None) -> None:
        """The bytes of an upload, as they are asked for."""
        need = need or (await self.until("need")).need
        for want in need.wants:
            data = b"".join(self.sent[need.of].pieces[want.blob])
            for frame in all_frames(want.blob, data)[:frames_at_most]:
                await self.worker.write(frame)


# ------------------------------------------------------------- what arrives above


@pytest.mark.parametrize("most", [1, 4])
def test_the_updates_of_many_arrive_as_one_sum(most):
    async def scenario(world):
        await world.relay()
        for number in range(3):
            world.agent(f"worker-{number}")
        fold = world.submit(*range(1, 10), most=most)
        before = world.server.driver.bytes_up
        await world.answered(*range(1, 10))
        np.testing.assert_array_equal(fold.mean()["w"], VALUES + np.float32(1))
        # A sum takes eight bytes an element. Before all workers were there, one may have gone up.
        assert world.server.driver.bytes_up - before < 2.2 * 8 * len(VALUES)

    play(scenario)


def test_a_relay_below_a_relay():
    async def scenario(world):
        await world.relay()
        await world.relay(f"127.0.0.1:{world.port}", name="relay-1")
        for number in range(2):
            world.agent(f"worker-{number}")
        for first in (0, 10):
            fold = world.submit(1, 2, 3, 4, 5, call=first)
            await world.answered(*range(first + 1, first + 6))
            np.testing.assert_array_equal(fold.mean()["w"], VALUES + np.float32(1))
        assert world.server.driver.workers == 2

    play(scenario)


def test_as_many_assignments_come_as_there_are_workers():
    async def scenario(world):
        await world.relay()
        world.submit(1, 2, 3, 4)
        workers = [world.worker(f"worker-{number}") for number in range(3)]
        for worker in workers:
            await worker.hello()
            await worker.send(ready=pb.Ready())
        tasks = [(await worker.control()).task for worker in workers]
        assert all(len(task.calls) == 1 for task in tasks)
        assert (world.server.driver.running, world.server.driver.workers) == (3, 3)

    play(scenario)


# ------------------------------------------------------------- workers that are lost


def test_an_update_that_is_lost_below_is_made_again_and_counts_once():
    """The worker that holds it is gone: above, nobody need hear of that."""

    async def scenario(world):
        await world.relay()
        first = Summing(world.worker("worker-0"))
        await first.worker.hello(incarnation="first life")
        fold = world.submit(1, 2)
        lost = await first.serve()
        await until(lambda: world.server.driver._dispatcher.queued == 0)
        second = Summing(world.worker("worker-0"))
        await second.worker.hello(incarnation="second life")
        again = await second.serve(change=5.0)
        assert again.calls[0].id == lost.calls[0].id
        await second.serve(change=5.0)
        await second.announce()
        await second.send()
        await world.answered(1, 2)
        np.testing.assert_array_equal(fold.mean()["w"], VALUES + np.float32(5))

    play(scenario)


def test_an_update_that_is_lost_when_it_was_asked_for_is_asked_for_again():
    async def scenario(world):
        await world.relay()
        first = Summing(world.worker("worker-0"))
        await first.worker.hello(incarnation="first life")
        fold = world.submit(1, 2)
        await first.serve()
        await first.serve()
        await first.announce()
        second = Summing(world.worker("worker-0"))
        await second.worker.hello(incarnation="second life")
        await second.serve(change=5.0)
        await second.serve(change=5.0)
        await second.announce()
        await second.send()
        await world.answered(1, 2)
        np.testing.assert_array_equal(fold.mean()["w"], VALUES + np.float32(5))

    play(scenario)


def test_an_update_that_cannot_be_made_again_has_failed():
    """It counted as held above: now it does not, and the others' sum does not wait for it."""

    async def scenario(world):
        await world.relay()
        first = Summing(world.worker("worker-0"))
        await first.worker.hello(incarnation="first life")
        fold = world.submit(1, 2)
        await first.serve()
        await first.serve()
        await first.until("flush")
        second = Summing(world.worker("worker-0"))
        await second.worker.hello(incarnation="second life")
        await second.worker.send(ready=pb.Ready())
        task = await second.next_task()
        failure = pb.Failure(code=pb.Failure.APP_RAISED, reason="it raised")
        outcome = pb.Outcome(call=task.calls[0].id, failure=failure)
        reply = pb.Reply(assignment=task.assignment, outcomes=[outcome])
        second.uploads.add(reply, [], set())
        await second.worker.send(reply=reply)
        await second.serve(change=5.0)
        outcomes = dict([await world.server.outcome(), await world.server.outcome()])
        assert outcomes[1].reason == "it raised"
        assert isinstance(outcomes[2], Answer)
        np.testing.assert_array_equal(fold.mean()["w"], VALUES + np.float32(5))

    play(scenario)


def test_a_call_that_is_taken_back_when_it_was_held_is_not_held_for_ever():
    """Nobody above asks for the sum that it is in; its client is served again."""

    async def scenario(world):
        await world.relay()
        worker = Summing(world.worker("worker-0"))
        await worker.worker.hello()
        world.submit(1, 2)
        await worker.worker.send(ready=pb.Ready())
        task = await worker.next_task()
        # Both go their way at once.
        world.server.driver.withdraw([1, 2], pb.Failure.WITHDRAWN, "enough")
        await worker.keep(task)
        assert {(await world.server.outcome())[0] for _ in range(2)} == {1, 2}
        serving = asyncio.create_task(worker.serve_all(change=5.0))
        desk = world.now._upstream._desk
        await until(lambda: desk._uploads.assignments == [] and not desk.held)
        fold = world.submit(1, 2, call=10)
        await world.answered(11, 12)
        np.testing.assert_array_equal(fold.mean()["w"], VALUES + np.float32(5))
        serving.cancel()

    play(scenario)


# ------------------------------------------------------------- relays that are lost


def test_a_relay_that_dies_has_its_calls_served_again():
    async def scenario(world):
        relay = await world.relay()
        first = Summing(world.worker("worker-0"))
        await first.worker.hello(incarnation="first life")
        fold = world.submit(1, 2)
        await first.serve()
        await die(relay)
        await world.relay()
        # The worker has lived on, and holds what nobody waits for any more.
        back = Summing(world.worker("worker-0"))
        back.sums, back.uploads = first.sums, first.uploads
        await back.worker.hello(
            incarnation="first life",
            held=[call for each in first.sums.values() for call in each.calls],
        )
        await back.announce()
        assert "nobody waits" in (await back.until("settled")).settled.refused[0].reason
        await back.serve(change=5.0)
        await back.serve(change=5.0)
        await back.announce()
        await back.send()
        await world.answered(1, 2)
        np.testing.assert_array_equal(fold.mean()["w"], VALUES + np.float32(5))

    play(scenario)


def test_a_relay_that_dies_when_its_sum_is_above_counts_once():
    async def scenario(world):
        relay = Summing(world.worker("relay-0", world.server.address, Role.RELAY))
        await relay.worker.hello(incarnation="first life")
        await relay.worker.send(capacity=pb.Capacity(assignments=2))
        fold = world.submit(1, 2)
        tasks = [await relay.next_task() for _ in range(2)]
        for task in tasks:
            await relay.keep(task)
        await relay.announce()
        await relay.send()
        # It dies before it hears that this was settled.
        again = Summing(world.worker("relay-0", world.server.address, Role.RELAY))
        await world.answered(1, 2)
        relay.worker.call.cancel()
        await again.worker.hello(incarnation="second life")
        await again.worker.send(capacity=pb.Capacity(assignments=2))
        assert fold.weights == [1.0, 1.0]
        other = world.submit(3)
        task = await again.next_task()
        assert [call.id for call in task.calls] == [3], "and is given nothing that has counted"
        assert other.weights == []

    play(scenario)


def test_a_relay_that_dies_with_half_its_sum_above_counts_for_nothing(monkeypatch):
    async def scenario(world):
        relay = Summing(world.worker("relay-0", world.server.address, Role.RELAY))
        await relay.worker.hello(incarnation="first life")
        await relay.worker.send(capacity=pb.Capacity(assignments=2))
        fold = world.submit(1, 2)
        for task in [await relay.next_task() for _ in range(2)]:
            await relay.keep(task)
        await relay.announce()
        await relay.send(frames_at_most=1)
        again = Summing(world.worker("relay-0", world.server.address, Role.RELAY))
        await again.worker.hello(incarnation="second life")
        await again.worker.send(capacity=pb.Capacity(assignments=2))
        for task in [await again.next_task() for _ in range(2)]:
            await again.keep(task, change=5.0)
        await again.announce()
        await again.send()
        await world.answered(1, 2)
        np.testing.assert_array_equal(fold.mean()["w"], VALUES + np.float32(5))

    play(scenario)


# ------------------------------------------------------------- links that break


def test_cuts_above_and_below_interrupt_nothing():
    async def scenario(world):
        above = Link(int(world.server.address.rpartition(":")[2]), 3_000_000)
        await world.relay(await above.open())
        below = Link(world.port, 5_000_000)
        address = await below.open()
        for number in range(2):
            world.agent(f"worker-{number}", address)
        values = np.arange(1_500_000, dtype=np.float32)
        for first in (1, 10):
            clients = range(first, first + 5)
            fold = world.submit(*clients, values=values)
            await world.answered(*clients)
            np.testing.assert_array_equal(fold.mean()["w"], values + np.float32(1))
            assert fold.weights == [1.0] * 5
        assert above.breaks > 2
        assert below.breaks > 2
        await above.close()
        await below.close()

    play(scenario)


# ------------------------------------------------------------- who may


def test_a_worker_takes_one_assignment_at_a_time(monkeypatch):
    async def scenario(world):
        worker = world.worker("worker-0", world.server.address)
        await worker.hello()
        await worker.send(capacity=pb.Capacity(assignments=9))
        code, why = await worker.how_it_ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert why == "only a relay has several assignments at a time"

    play(scenario)


def test_a_stranger_is_no_relay(monkeypatch):
    async def scenario(world):
        world.trusted, ours = harness.authority(), world.trusted
        theirs = world.credentials(Role.RELAY, "relay-0")
        world.trusted = ours
        relay = Relay("relay-0", theirs, "127.0.0.1:0", Path(tempfile.gettempdir()), print)
        with pytest.raises(Refused, match="no server at"):
            await relay.run(world.server.address, 0.1)

    play(scenario)


def test_the_runs_end_is_told_to_the_workers():
    async def scenario(world):
        relay = await world.relay()
        worker = world.worker("worker-0")
        await worker.hello()
        world.server.exchange.close("it is over")
        assert (await worker.control()).goodbye.reason == "the run is over"
        await relay

    play(scenario)


def test_an_app_that_cannot_be_loaded_is_told_above():
    async def scenario(world):
        await world.relay()
        worker = world.worker("worker-0")
        await worker.hello()
        await worker.send(app_broken=pb.AppBroken(traceback="no such module"))
        await until(lambda: world.server.broken == ["no such module"])

    play(scenario)


async def until(holds) -> None:
    while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.01)

"""A run in a simulated world: its server's lives, its workers, and what befalls them."""

from __future__ import annotations

import asyncio
import functools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from blake3 import blake3
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings, Ended
from fedkube_client.flower import Handler
from fedkube_client.segments import Segment
from fedkube_server import states
from fedkube_server.blobs import BlobStore
from fedkube_server.calls import Ending
from fedkube_server.credits import Credits
from fedkube_server.driver import Driver
from fedkube_server.flower import app, hooks
from fedkube_server.flower.batches import Batch, Mailbox, Sent
from fedkube_server.flower.grid import ExchangeGrid, Federation
from fedkube_server.flower.tracking import Tracker
from fedkube_server.halt import Halt
from fedkube_server.landing import Spool
from fedkube_server.past import Past
from fedkube_server.recorder import Recorder
from fedkube_server.relay.process import Relay
from fedkube_server.seats import Seats
from fedkube_server.sessions import Shared
from fedkube_server.workers import Workers

from fedkube.api.v1alpha1 import Pool, RunSpec
from fedkube.app import loading
from fedkube.core import ids
from fedkube.core.errors import Environment, FedKubeError
from fedkube.core.run_states import RunEvent, RunState
from fedkube.core.tasks import Dispatcher
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import executor_pb2 as xpb
from fedkube.store.history import Round
from fedkube.store.journal import Journal
from fedkube.store.run_folder import RunRecord
from fedkube.wire.identity import Role
from tests.simulation.apps import APPS, LATE, client_app
from tests.simulation.disk import Disk, DiskLog, Folder
from tests.simulation.loop import SimulatedLoop, Stuck
from tests.simulation.network import Network
from tests.simulation.plan import Plan

RUN = "20260101-000000-simulated-0000"

# The seed of the app itself: whatever befalls it, its model must be the same.
APP_SEED = 11

# Where the server listens; relays do under their names.
_SERVER = "server"

# Longer than this no run takes, whatever befalls it.
_LIMIT_S = 3000.0

# So often a client may be tried.
_MAX_ATTEMPTS = 1000

# Nor has a server as many lives.
_LIVES = 200


class Crashed(BaseException):
    """The server's process has died here. No Exception: nobody may catch it."""


@dataclass(slots=True)
class Outcome:
    """What became of a run. ``trace``: a digest of all that happened, in its order."""

    model: str
    result: Any
    rounds: list[Any]
    lives: int
    seconds: float
    trace: str
    happened: Counter[str] = field(default_factory=Counter)


class _Executor:
    """Makes calls in this process, and dies when it is told to."""

    def __init__(self, world: World, settings: AppSettings) -> None:
        self._world = world
        self._handler: Handler | None = None
        self._because = ""
        self._place = 0
        self.doomed = False

    @property
    def usable(self) -> bool:
        return not self._because and not self.doomed

    def load(self, request: xpb.Load) -> None:
        node: Any = {"num-partitions": request.partitions}
        self._handler = Handler(self._world.client_app, "", request.flower_run, {}, node)

    def execute(
        self,
        request: xpb.Execute,
        segments: dict[int, tuple[int, int]],
        sent: Sequence[memoryview],
    ) -> tuple[xpb.Executed, list[memoryview]]:
        if self.doomed:
            place = self._world.chance.randrange(len(request.task.calls))
            raise Ended(pb.Failure(code=pb.Failure.KILLED, reason="out of memory"), place)
        if self._because:
            raise Ended(pb.Failure(code=pb.Failure.TIMED_OUT, reason=self._because), self._place)
        mapped = {key: Segment(os.dup(fd), nbytes) for key, (fd, nbytes) in segments.items()}
        blobs = [
            memoryview(bytes(mapped[each.segment].view[each.offset : each.offset + each.nbytes]))
            for each in request.places
        ]
        for each in mapped.values():
            each.close()
        assert self._handler is not None
        with self._world.other_process():
            self._handler.uncounted(request.uncounted)
            executed, outgoing = self._handler.handle(request.task, blobs, self._began)
        known = {id(blob): index for index, blob in enumerate(blobs)}
        executed.places.extend(xpb.Place(received=known.get(id(each))) for each in outgoing)
        return executed, [
            sent[place.received] if place.HasField("received") else memoryview(bytes(each))
            for place, each in zip(executed.places, outgoing, strict=True)
        ]

    def _began(self, place: int) -> None:
        self._place = place

    def serving(self, task: pb.Task) -> int:
        return task.calls[min(self._place, len(task.calls) - 1)].id

    def kill(self, because: str) -> None:
        self._because = self._because or because

    def close(self) -> None:
        self._because = self._because or "closed"


class _Mailbox(Mailbox):
    """Waits by letting the world go on."""

    def __init__(self, halt: Halt, world: World) -> None:
        super().__init__(halt)
        self._world = world

    def wake(self) -> None:
        super().wake()
        self._world.wake()

    def put(self, batch: Batch, sent: Sent, outcome: Ending) -> bool:
        last = super().put(batch, sent, outcome)
        if last:
            self._world.wake()
        return last

    def wait(
        self,
        batch: Batch,
        timeout_s: float | None,
        more: Callable[[], bool] = lambda: False,
        starved: Callable[[], bool] = lambda: False,
    ) -> bool:
        assert timeout_s is None or timeout_s > _LIMIT_S, "nothing here takes as long"
        self._world.go_on(lambda: batch.open == 0 and not more())
        self._halt.check()
        return True


class _Seats(Seats):
    """Waits by letting the world go on."""

    def __init__(self, sites: Sequence[str], halt: Halt, world: World) -> None:
        super().__init__(sites, None, halt)
        self._world = world

    def seated(self, clients: Iterable[int]) -> None:
        super().seated(clients)
        self._world.wake()

    def wait(self) -> list[int]:
        self._world.go_on(lambda: not self.absent())
        return super().wait()


class _Life:
    """One process of the server's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log = DiskLog(world.disk)
        journal = Journal(
            self.log,
            RUN,
            large_bytes=1 if world.plan.condenses else None,
            wait=lambda stopped, seconds: world.passes(seconds),
        )
        self.folder = Folder(world.disk)
        record = world.disk.files["run.json"].model_copy(deep=True)
        if record.state is RunState.RUNNING:
            record.state = RunState.PENDING
        self.halt = Halt()
        self.store = BlobStore()
        first = ids.first_number(world.chance.randbytes(6))
        self.dispatcher = Dispatcher(record.spec.pool.max_attempts, first=first)
        self.driver = Driver(
            world.loop, self.dispatcher, lambda answer: states.keep(answer, self.store)
        )
        self.driver.speculates = world.plan.speculates
        self.recorder = Recorder(
            self.folder,  # type: ignore[arg-type]
            record,
            world.loop.time,
            lambda: (self.driver.bytes_up, self.driver.bytes_down),
            goes_on=bool(journal.stored),
        )
        self.past = Past(journal)
        self.seats = _Seats(world.workers if world.plan.sites else (), self.halt, world)
        self.driver.seated = self.seats.seated
        self.credits = Credits()
        shared = Shared(
            self.driver,
            Spool(world.spool),
            self.credits,
            self._app_broken,
            self._broken,
            world.loop.time,
        )
        self.workers = Workers(RUN, shared, self._welcome, self.seats.clients_of)
        plan = world.plan
        federation = Federation.of(
            APP_SEED, plan.clients, None, plan.compression, workers=plan.workers
        )
        nodes, cohort = federation.node_ids, plan.cohort
        tracker = Tracker(self.recorder, self.halt, nodes, None, cohort, self.past)
        self.grid = ExchangeGrid(
            app.describe(RUN),
            federation,
            self.driver,
            self.store,
            tracker,
            self.recorder,
            self.halt,
            self.seats,
            self.past,
            _Mailbox(self.halt, world),
            first,
        )
        hooks.install(tracker)
        self.recorder.started()

    def main(self) -> Any:
        """Listen, and run the app."""
        world = self.world
        world.network.handlers[_SERVER] = self.workers._session
        random.seed(APP_SEED)
        loading.seed_everything(ids.derive("server", APP_SEED))
        loading.identify(app.run_number(RUN), 1, 1)
        result = (APPS | LATE)[world.plan.app](self.grid, world.plan.clients, world.plan.size)
        self.grid.close()
        self.recorder.finish(RunEvent.FINISHED)
        self.past.close(delete=True)
        return result

    def die(self) -> None:
        """All that was in memory is gone."""
        self.log.die()
        _stop_timers(self.workers)

    def _welcome(self) -> pb.Welcome:
        clients = self.world.plan.clients
        return pb.Welcome(
            run=RUN,
            flower_run=3,
            cache_bytes=1 << 20,
            partitions=clients,
            max_attempts=_MAX_ATTEMPTS,
        )

    def _broken(self, error: FedKubeError) -> None:
        raise error

    def _app_broken(self, traceback: str) -> None:
        raise AssertionError(traceback)


def _stop_timers(workers: Workers) -> None:
    """Of a process that is dead."""
    if workers._looking is not None:
        workers._looking.cancel()
    for timer in workers._leaving.values():
        timer.cancel()


class World:
    """One seed."""

    def __init__(
        self, plan: Plan, spool: Path, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        self.plan = plan
        self.spool = spool
        self._tell = tell
        self.chance = random.Random(plan.seed)
        self.loop = SimulatedLoop(self.chance)
        self.network = Network(self.loop, self.chance, RUN, self._raise, self._write_down)
        self.disk = Disk(self.chance, self.loop.time, self._may_die)
        self.client_app = client_app(adds_one=plan.late)
        kind = "site" if plan.sites else "worker"
        self.workers = [f"{kind}-{number}" for number in range(plan.workers)]
        self.happened: Counter[str] = Counter()
        self._agents: dict[str, tuple[Agent, asyncio.Task[None]]] = {}
        self._executors: dict[str, _Executor] = {}
        self._relays: dict[str, tuple[Relay | None, asyncio.Task[None]]] = {}
        self._places = 0
        self._reached: Counter[str] = Counter()  # by this life of the server
        self._life: _Life | None = None
        self._over = False
        self._waiting: asyncio.Future[None] | None = None
        self._trace = blake3()

    # ------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """The whole of it. Raises what nothing in a real process would have caught."""
        asyncio.set_event_loop(self.loop)
        self.disk.files["run.json"] = RunRecord(
            run_id=RUN,
            state=RunState.PENDING,
            app="simulated",
            spec=RunSpec(
                app="",
                seed=APP_SEED,
                pool=Pool(clients=self.plan.clients, max_attempts=_MAX_ATTEMPTS),
            ),
            versions={},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for number in range(self.plan.relays):
            self._begin_relay(f"relay-{number}")
        for name in self.workers:
            self._begin_worker(name)
        for when, what in self.plan.troubles:
            self.loop.call_at(when, self._happen, what)
        lives, result = 0, None
        with (
            mock.patch("time.time", self.loop.wall),
            mock.patch("flwr.supercore.date.datetime", _Datetime(self.loop.wall)),
            mock.patch("fedkube.wire.stream.random", self.chance),
            mock.patch("fedkube_server.relay.desk.secrets.token_bytes", self.chance.randbytes),
        ):
            try:
                while True:
                    lives += 1
                    try:
                        result = self._live()
                        break
                    except Crashed:
                        self._bury()
                    except Environment as error:
                        # Whoever looks after it begins it again.
                        self.note(error.message)
                        self._bury()
                    if self.disk.files["run.json"].state.final:
                        break  # it died when all was written
                    if lives > _LIVES:
                        raise Stuck(f"not over after {lives} lives")
                    self._wait(self.chance.choice((0.01, 1.0, 15.0)))
                self._over = True
                return self._end(result, lives)
            finally:
                self._close()

    def _live(self) -> Any:
        self._reached.clear()
        self._life = _Life(self)
        return self._life.main()

    def _bury(self) -> None:
        self.note("died")
        self.network.kill_server(_SERVER)
        if self._life is not None:
            self._life.die()
            self._life = None
        elif self.disk.owner is not None:
            self.disk.owner.die()

    def _end(self, result: Any, lives: int) -> Outcome:
        life = self._life
        if life is None:
            return self._outcome(result, lives)
        life.workers.close("the run is over")
        if self._relays:
            self._send_home()
        self.go_on(lambda: all(task.done() for task in self._tasks()))
        for task in self._tasks():
            if not task.cancelled():  # of one that was killed
                task.result()
        for relay, _ in self._relays.values():
            if relay is not None:
                relay._dispatcher.check()
        if self.plan.late:
            self._wait(60.0)  # the server has not yet heard of the end of who was killed at a call
        life.dispatcher.check()
        assert (life.dispatcher.running, life.dispatcher.queued) == (0, 0)
        assert not life.credits._using, "a credit was never given back"
        assert not life.credits._waiting
        assert not life.driver._live, "a call was never settled"
        assert not self.disk.journal, "a journal was left behind"
        return self._outcome(result, lives)

    def _send_home(self) -> None:
        """Whoever was away when its relay ended finds nobody; who starts workers ends those."""
        self.go_on(lambda: all(task.done() for _, task in self._relays.values()))
        self._wait(60.0)
        connected = {each.name for each in self.network.open}
        for name, (_, task) in self._agents.items():
            if name not in connected:
                task.cancel()

    def _outcome(self, result: Any, lives: int) -> Outcome:
        rounds = self._rounds(Folder(self.disk).read_history())
        return Outcome(
            blake3(self.disk.files.get("model", b"")).hexdigest(),
            _plain(result),
            rounds,
            lives,
            self.loop.time(),
            self._trace.hexdigest(),
            self.happened,
        )

    def _rounds(self, history: list[Round]) -> list[Any]:
        """What of the history must not depend on faults."""
        return [
            (
                each.round,
                {
                    name: (phase.asked, sorted(phase.clients), len(phase.failures), phase.metrics)
                    for name, phase in each.phases.items()
                },
            )
            for each in history
        ]

    def _close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        # Whatever is planned may still run: nobody looks any more.
        self.loop.set_exception_handler(lambda *_: None)
        self.loop.run_until_complete(asyncio.sleep(60))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        asyncio.set_event_loop(None)

    # ------------------------------------------------------------- time

    def go_on(self, holds: Callable[[], bool]) -> None:
        """Let things happen until this is so."""
        while not holds():
            for task in self._tasks():
                if task.done() and not task.cancelled():
                    task.result()
            if self.loop.time() > _LIMIT_S:
                raise Stuck(f"not over after {_LIMIT_S:g} s")
            self._wait(60.0)

    def passes(self, seconds: float) -> bool:
        """Time that passes while the server waits for its disk."""
        self._wait(seconds)
        return False

    def _wait(self, seconds: float) -> None:
        self._waiting = self.loop.create_future()
        timer = self.loop.call_later(seconds, self.wake)
        waiting = self._waiting
        try:
            self.loop.run_until_complete(waiting)
        finally:
            timer.cancel()

    def wake(self) -> None:
        """What somebody waits for may be so now."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _raise(self, error: BaseException) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    # ------------------------------------------------------------- workers and relays

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for _, task in (*self._agents.values(), *self._relays.values())]

    def _begin_relay(self, name: str) -> None:
        async def live() -> None:
            relay = Relay(
                name,
                None,  # type: ignore[arg-type]
                name,
                self.spool,
                lambda _: None,
                lambda *_: self.network.connect(name, Role.RELAY, _SERVER),
                self.network.serve,
                self.loop.time,
            )
            relay._upstream._incarnation = f"{name}-{self.chance.random()}"
            self._relays[name] = relay, task
            await relay.run("simulated:1", 10_000)

        task = self.loop.create_task(live())
        task.add_done_callback(lambda _: self.wake())
        self._relays[name] = None, task

    def _begin_worker(self, name: str) -> None:
        above = _SERVER
        if self.plan.relays:
            above = f"relay-{int(name.rpartition('-')[2]) % self.plan.relays}"
        settings = AppSettings(None, "", 1)  # type: ignore[arg-type]
        agent = Agent(
            "simulated:1",
            name,
            None,  # type: ignore[arg-type]
            settings,
            1 << 20,
            lambda *_: self.network.connect(name, Role.WORKER, above),
            lambda settings: self._begin_executor(name, settings),
        )
        agent._incarnation = f"{name}-{self.chance.random()}"
        task = self.loop.create_task(agent.run(10_000))
        task.add_done_callback(lambda _: self.wake())
        self._agents[name] = (agent, task)

    def _begin_executor(self, name: str, settings: AppSettings) -> Any:
        self._executors[name] = _Executor(self, settings)
        return self._executors[name]

    @contextmanager
    def other_process(self) -> Iterator[None]:
        """Its random generators are not the server's."""
        kept = random.getstate(), np.random.get_state()
        identity = loading.TaskIdentity
        known = identity.run_id, identity.node_id, identity.task_id
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            loading.identify(*known)

    # ------------------------------------------------------------- what goes wrong

    def note(self, what: str) -> None:
        """Something has gone wrong."""
        self.happened[what] += 1
        self._write_down(f"*** {what}")

    def _write_down(self, what: str) -> None:
        line = f"{self.loop.time():10.4f} {what}"
        self._trace.update(line.encode())
        self._tell(line)

    def _may_die(self, place: str) -> None:
        """The server is at a place where a crash leaves something half done."""
        self._places += 1
        self._reached[place] += 1
        self._write_down(place)
        if self._places in self.plan.crashes and not self._over:
            raise Crashed(place)
        if self.plan.dies == (place, self._reached[place]) and not self._over:
            raise Crashed(place)

    def _happen(self, what: str) -> None:
        chance = self.chance
        connection = chance.choice(self.network.open) if self.network.open else None
        name = chance.choice(list(self._agents))
        match what:
            case "cut" if connection is not None:
                connection.cut()
            case "half open" if connection is not None:
                connection.cut(0.0, chance.choice((0.1, 2.0, 20.0)))
            case "block" if connection is not None:
                up = chance.random() < 0.7
                down = not up or chance.random() < 0.5
                connection.block(up, down, chance.choice((1.0, 15.0, 40.0)))
            case "worker" if self._relays and chance.random() < 0.5:
                self._kill_relay(chance.choice(list(self._relays)))
                what = "relay"
            case "worker":
                self._kill_worker(name)
            case "executor" if name in self._executors:
                self._executors[name].doomed = True
            case "server" if self._life is not None and not self._over:
                self._raise(Crashed("killed"))
            case "full":
                self.disk.full_until = self.loop.time() + chance.choice((0.5, 5.0, 30.0))
            case "clock":
                self.loop.wall_offset += chance.choice((-3600.0, 3600.0, 3.15e8))
            case _:
                return
        self.note(what)

    def _kill_worker(self, name: str) -> None:
        self._kill(name, self._agents, self._begin_worker)

    def _kill_relay(self, name: str) -> None:
        relay, _ = self._relays[name]
        self.network.kill_server(name)
        if relay is not None and relay._workers is not None:
            _stop_timers(relay._workers)
        self._kill(name, self._relays, self._begin_relay)

    def _kill(
        self,
        name: str,
        lives: Mapping[str, tuple[Any, asyncio.Task[None]]],
        begin: Callable[[str], None],
    ) -> None:
        for connection in [each for each in self.network.open if each.name == name]:
            connection.cut(0.0, self.chance.choice((0.0, 20.0)))
        lives[name][1].cancel()
        pause = self.chance.choice((0.1, 3.0, 30.0))
        self.loop.call_later(pause, self._begin_again, name, lives, begin)

    def _begin_again(
        self,
        name: str,
        lives: Mapping[str, tuple[Any, asyncio.Task[None]]],
        begin: Callable[[str], None],
    ) -> None:
        if self._over:
            return
        if not lives[name][1].done():
            # What was killed is still ending.
            self.loop.call_later(0.1, self._begin_again, name, lives, begin)
        else:
            begin(name)


class _Datetime:
    """The module, as far as Flower's clock needs it."""

    UTC = UTC

    def __init__(self, wall: Callable[[], float]) -> None:
        self.datetime = self
        self._wall = wall

    def now(self, tz: Any) -> datetime:
        return datetime.fromtimestamp(self._wall(), tz)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value


@functools.cache
def expected(plan: Plan, spool: Path) -> Outcome:
    """What an undisturbed run of the plan's app comes to."""
    return World(plan, spool).run()


def compare(plan: Plan, spool: Path) -> Outcome:
    """Run a plan; AssertionError, or whatever it died of, where something does not hold."""
    wanted = expected(plan.undisturbed(), spool)
    got = World(plan, spool).run()
    # A server that dies when all is written has told nobody what its app returned.
    assert got.result in (None, wanted.result), "another result than an undisturbed run's"
    assert got.rounds == wanted.rounds, "another history than an undisturbed run's"
    assert got.model == wanted.model, "another model than an undisturbed run's"
    return got


def simulate(seed: int, spool: Path) -> Outcome:
    """Run what a seed stands for."""
    return compare(Plan.of(seed), spool)

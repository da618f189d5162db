"""An exchange over real sockets without an app: tests submit tasks and see their outcomes."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedkube_server import states
from fedkube_server.blobs import BlobStore
from fedkube_server.calls import Answer, NewTask, Outgoing
from fedkube_server.driver import Driver
from fedkube_server.exchange import Exchange
from fedkube_server.folds import Fold, sent_arrays
from fedkube_server.halt import Halt
from fedkube_server.landing import Spool
from fedkube_server.seats import Seats

from fedkube.core.errors import FedKubeError
from fedkube.core.tasks import Dispatcher, Kind
from fedkube.pki.authority import Authority
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels
from fedkube.wire.channels import Credentials
from fedkube.wire.identity import Identity, Role

RUN = "run-1"


def authority() -> Authority:
    return Authority("test", datetime.now(UTC), timedelta(days=1))  # longer than any soak


def credentials(trusted, role, name="worker-0", run=RUN, by=None) -> Credentials:
    """A certificate by ``by`` (or the trusted authority) for someone who trusts ``trusted``."""
    serves = role in (Role.SERVER, Role.RELAY)
    uri = Identity(run, role, name).uri()
    certificate, key = (by or trusted).issue(
        name,
        uri,
        ["127.0.0.1"] if serves else [],
        server=serves,
        client=role is not Role.SERVER,
    )
    return Credentials(trusted.certificate(), certificate, key)


@asynccontextmanager
async def open_world(**of_server) -> AsyncIterator[tuple[Server, Callable[..., object]]]:
    """A server, and how to make channels with certificates of any kind to it.

    ``address``: another than the server's, such as a link's. ``before``: called with the authority.
    """
    trusted = authority()
    server = Server(credentials(trusted, Role.SERVER), **of_server)
    await server.start()
    opened = []

    def channel(
        name="worker-0", role=Role.WORKER, run=RUN, by=None, before=None, address=None
    ) -> object:
        if before is not None:
            before(trusted)
        mine = credentials(trusted, role, name, run, by)
        opened.append(channels.connect(address or server.address, mine))
        return opened[-1]

    channel.trusted = trusted
    try:
        yield server, channel
    finally:
        for each in opened:
            await each.close()
        await server.stop()


def play(scenario, seconds: float = 30, **of_server) -> None:
    """Let a scenario of a server and its channels happen, in bounded time."""

    async def whole() -> None:
        async with open_world(**of_server) as (server, channel):
            await asyncio.wait_for(scenario(server, channel), seconds)

    asyncio.run(whole())


class _Nothing:
    """A recorder for servers that record nothing but who is banned."""

    def __init__(self) -> None:
        self.sites: list[str] = []
        self.changed: Callable[[], None] = lambda: None

    def snapshot(self, seen, running, workers):
        snapshot = pb.Snapshot(state="Running", running=running, workers=workers)
        snapshot.banned.extend(self.sites)
        return snapshot, seen

    def banned(self, sites):
        self.sites = sites
        self.changed()  # on a thread


class Server:
    """Bound to a free port; ``start`` and ``stop`` it. Needs a running event loop."""

    def __init__(
        self,
        mine: Credentials,
        run_config: pb.Values | None = None,
        sites: tuple[str, ...] = (),
        spool: Spool | None = None,
    ) -> None:
        self.seats = Seats(sites, None, Halt())
        self.store = BlobStore()
        self.driver = Driver(
            asyncio.get_running_loop(), Dispatcher(), lambda answer: states.keep(answer, self.store)
        )
        self.recorder = _Nothing()
        self.broken: list[str] = []
        self.failed: list[FedKubeError] = []
        self.stopped: list[tuple[str, bool]] = []
        self._outcomes: asyncio.Queue[tuple[int, object]] = asyncio.Queue()
        self.exchange = Exchange(
            RUN,
            self.driver,
            self.recorder,
            lambda: pb.Welcome(run=RUN, flower_run=3, run_config=run_config, cache_bytes=1 << 30),
            self.broken.append,
            lambda reason, broken: self.stopped.append((reason, broken)),
            spool or Spool(Path(tempfile.gettempdir())),
            self.failed.append,
            self.seats,
        )
        self.driver.seated = self.seats.seated
        self.driver.changed = self.exchange.changed
        loop = asyncio.get_running_loop()
        self.recorder.changed = lambda: loop.call_soon_threadsafe(self.exchange.changed)
        self._server, port = channels.serve("127.0.0.1:0", mine, self.exchange.handlers())
        self.address = f"127.0.0.1:{port}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def submit(
        self, number: int, *arrays: bytes, dtype: str = "uint8", admit=lambda answer: None
    ) -> None:
        """A train message with these arrays for client ``number``."""
        size = {"uint8": 1, "float32": 4}[dtype]
        content = pb.Content()
        record = content.records.add(name="arrays")
        for index, data in enumerate(arrays):
            entry = record.arrays.items.add(name=f"w{index}", dtype=dtype, blob=index)
            entry.shape.append(len(data) // size)
            entry.stype = "numpy.ndarray"
        self.submit_content(number, content, [*map(memoryview, arrays)], admit)

    def submit_content(
        self,
        number: int,
        content: pb.Content,
        blobs=(),
        admit=lambda answer: None,
        fold: Fold | None = None,
        most: int = 1,
        **of_task,
    ) -> None:
        self.submit_all([number], content, blobs, admit, fold, most, **of_task)

    def submit_all(
        self,
        numbers,
        content: pb.Content,
        blobs=(),
        admit=lambda answer: None,
        fold: Fold | None = None,
        most: int = 1,
        base: int = 0,
        **of_task,
    ) -> None:
        """One message for several clients; ``of_task``: what its frame has besides.

        The calls have the clients' numbers, from ``base`` on.
        """
        stored = [self.store.put(data) for data in blobs]
        kind = Kind(base + numbers[0], "train", fold is not None, most)
        frame = pb.Task(
            message_type="train",
            content=content,
            fold=fold.spec(base + numbers[0]) if fold else None,
            **of_task,
        )
        sent = sent_arrays(content, stored) if fold else {}
        message = Outgoing(frame, stored, kind, fold, sent)
        self.driver.submit(
            [
                NewTask(
                    id=base + number,
                    client=number,
                    call=pb.Call(
                        id=base + number,
                        node=5,
                        partition=number,
                        message_id=f"m{base + number}",
                        created_at=time.time(),
                        ttl=100,
                        seed=base + number,
                    ),
                    message=message,
                    admit=admit,
                    settled=lambda outcome, number=base + number: self._settled(number, outcome),
                    expires_in_s=60,
                )
                for number in numbers
            ]
        )

    def _settled(self, number: int, outcome: object) -> None:
        if isinstance(outcome, Answer):
            # What it landed in is used for others afterwards.
            outcome.blobs = [memoryview(bytes(blob)) for blob in outcome.blobs]
        self._outcomes.put_nowait((number, outcome))

    async def outcome(self) -> tuple[int, object]:
        return await asyncio.wait_for(self._outcomes.get(), 60)

    @property
    def silent(self) -> bool:
        """Whether no further outcome has come."""
        return self._outcomes.empty()

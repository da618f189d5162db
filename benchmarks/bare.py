"""A real server process, and workers that are no more than their end of the exchange.

A bare worker answers every task with the same bytes. Hundreds fit into one process, so the server
alone is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from fedkube import __version__
from fedkube.api.v1alpha1 import Checkpoints, Pool, RunSpec
from fedkube.app import project
from fedkube.pki.authority import Authority
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store.run_folder import RunFolder, RunRecord
from fedkube.wire import channels, frames
from fedkube.wire.identity import Identity, Role
from fedkube.wire.limits import PROTOCOL, UNASKED_BYTES
from fedkube.wire.tensors import digest
from fedkube.wire.window import Window

ECHO = Path(__file__).parent.parent / "tests" / "apps" / "echo"
RUN = "bench"
# How a call ends whose link is cut: as it waits, and in the middle of a write.
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


class ServerUnderTest:
    """``fedkube_server`` with the echo app, in a process of its own."""

    def __init__(self, clients: int, **config: Any) -> None:
        self.clients = clients
        self._config = config
        self._parent = Path(tempfile.mkdtemp(prefix="fedkube-bench-"))
        self.authority = Authority("bench", datetime.now(UTC), timedelta(hours=2))
        self.address = ""
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ServerUnderTest:
        app = project.read(ECHO)
        spec = RunSpec(
            app=str(ECHO),
            run_config=project.merge(app.config, self._config),
            pool=Pool(clients=self.clients),
            checkpoints=Checkpoints(every=1, keep=1),
            seed=1,
        )
        self.folder = RunFolder.create(self._parent / "run")
        self.folder.write_record(
            RunRecord(
                run_id=RUN, app=app.name, spec=spec, versions={}, created_at=datetime.now(UTC)
            )
        )
        tls, tell = os.pipe()
        ready, announce = os.pipe()
        with os.fdopen(tell, "wb") as pipe:
            pipe.write(self.credentials(Role.SERVER, "server").to_bytes())
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fedkube_server", "--folder", str(self.folder.path)),
                *("--tls-fd", str(tls), "--ready-fd", str(announce)),
            ],
            pass_fds=[tls, announce],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(tls)
        os.close(announce)
        with os.fdopen(ready) as pipe:
            self.address = f"127.0.0.1:{json.loads(pipe.readline())['port']}"
        return self

    def credentials(self, role: Role, name: str) -> channels.Credentials:
        """Who one of this run's processes is."""
        uri = Identity(RUN, role, name).uri()
        serves = role is Role.SERVER
        certificate, key = self.authority.issue(
            name, uri, ["127.0.0.1"] if serves else [], server=serves
        )
        return channels.Credentials(self.authority.certificate(), certificate, key)

    def rss_bytes(self) -> int:
        """What the server's process has in memory now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def result(self) -> dict[str, Any]:
        """Wait for the run's end; what the app reported, and the server's record."""
        assert self.process is not None
        output, _ = self.process.communicate(timeout=600)
        told: dict[str, Any] = {}
        for line in output.splitlines():
            if line.startswith("RESULT "):
                told = json.loads(line.removeprefix("RESULT "))
        if not told:
            raise SystemExit(output[-4000:])
        record = self.folder.read_record()
        return told | {"peak_rss": record.server_peak_rss_bytes, "state": str(record.state)}

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        shutil.rmtree(self._parent, ignore_errors=True)


class Update:
    """Bytes that a bare worker sends up for a tensor, whatever it got."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[memoryview, bytes]] = {}

    def of(self, place: int, nbytes: int) -> tuple[memoryview, bytes]:
        """The bytes for the tensor in this place, and their digest; made once."""
        if place not in self._made:
            values = np.random.default_rng(place).standard_normal(nbytes // 4, np.float32)
            data = memoryview(values.view(np.uint8).data)
            self._made[place] = (data, digest(data))
        return self._made[place]


class BareWorker:
    """One worker's end. ``returns``: it comes back when its link is cut.

    ``bytes_per_s``: it sends arrays no faster than this, as one behind such a link does.
    ``on_want``: called with the offset from which a blob is asked for, each time.
    """

    def __init__(
        self,
        address: str,
        name: str,
        credentials: channels.Credentials,
        update: Update,
        returns: bool = False,
        bytes_per_s: float = math.inf,
    ) -> None:
        self.name = name
        self._address = address
        self._credentials = credentials
        self._update = update
        self._incarnation = uuid.uuid4().hex
        self._returns = returns
        self._bytes_per_s = bytes_per_s
        self._uploads = 0
        self._blobs = 0
        self._pending: pb.Reply | None = None
        self._data: dict[int, memoryview] = {}
        self._task: pb.Task | None = None
        self._missing = 0
        self.welcomed = asyncio.Event()
        self.tasks = 0
        self.on_task: Callable[[], None] = lambda: None
        self.on_want: Callable[[int], None] = lambda offset: None

    async def run(self) -> None:
        """Serve until the server says goodbye."""
        while not await self._serve():
            pass

    async def _serve(self) -> bool:
        self._control: deque[bytes] = deque()
        self._bulk: deque[frames.Bulk] = deque()
        self._wake = asyncio.Event()
        self._window, over = Window(time.monotonic), asyncio.Event()
        async with channels.connect(self._address, self._credentials) as channel:
            self._call = channel.stream_stream(channels.SESSION)(self._frames(over))
            replied = [self._pending.assignment] if self._pending else []
            self._send(
                hello=pb.Hello(
                    protocol=PROTOCOL,
                    worker=self.name,
                    version=__version__,
                    incarnation=self._incarnation,
                    assignments=replied,
                )
            )
            try:
                async for frame in self._call:
                    if self._take(frame):
                        return True
            except grpc.aio.AioRpcError as error:
                if not self._returns or error.code() not in _BROKEN:
                    raise
            finally:
                over.set()
                self._wake.set()
        return False

    def _send(self, **kind: Any) -> None:
        self._control.append(frames.control(pb.WorkerFrame(**kind)))
        self._wake.set()

    async def _frames(self, over: asyncio.Event) -> AsyncIterator[bytes]:
        # Its own: when the stream is cut, what another writes is none of its business.
        control, bulk, wake, window = self._control, self._bulk, self._wake, self._window
        while not over.is_set():
            if control:
                yield control.popleft()
            elif bulk and window.is_open:
                frame = frames.next_data(bulk)
                window.sent(len(frame))
                if self._bytes_per_s < math.inf:
                    await asyncio.sleep(len(frame) / self._bytes_per_s)
                yield frame
            else:
                wake.clear()
                await wake.wait()

    def _take(self, frame: bytes) -> bool:
        if frames.is_data(frame):
            self._missing -= sum(len(part) for _, _, part in frames.read_data(frame))
            self._answer_when_whole()
            return False
        message = frames.read_control(frame, pb.ServerFrame)
        match message.WhichOneof("kind"):
            case "welcome":
                self.welcomed.set()
                if self._pending is not None:
                    self._send(reply=self._pending)
                else:
                    self._task = None  # the server gives it to another
                    self._send(ready=pb.Ready())
            case "task":
                self.tasks += 1
                self.on_task()
                self._task = message.task
                self._missing = sum(each.nbytes for each in self._task.blobs if not each.held)
                self._answer_when_whole()
            case "need":
                for want in message.need.wants:
                    if want.blob in self._data:
                        self.on_want(want.offset)
                        self._bulk.append((want.blob, [self._data[want.blob]], want.offset))
                if (probe := self._window.probe()) is not None:
                    self._send(probe=probe)
                self._wake.set()
            case "received":
                self._window.received(message.received)
                self._wake.set()
            case "settled":
                if self._pending is not None and self._pending.upload == message.settled.upload:
                    self._pending = None
                    self._send(ready=pb.Ready())
            case "goodbye":
                return True
        return False

    def _answer_when_whole(self) -> None:
        task = self._task
        if task is None or self._missing > 0:
            return
        self._task = None
        self._uploads += 1
        reply = pb.Reply(upload=self._uploads, assignment=task.assignment, seconds=1.0)
        self._data.clear()
        for place, item in enumerate(task.content.records[0].arrays.items):
            data, checksum = self._update.of(place, task.blobs[item.blob].nbytes)
            self._blobs += 1
            reply.blobs.add(id=self._blobs, digest=checksum, nbytes=len(data))
            self._data[self._blobs] = data
        for call in task.calls:
            outcome = reply.outcomes.add(call=call.id, created_at=time.time(), ttl=3600)
            arrays = outcome.content.records.add(name="arrays").arrays
            for place, item in enumerate(task.content.records[0].arrays.items):
                arrays.items.add().CopyFrom(item)
                arrays.items[-1].blob = place
            metrics = outcome.content.records.add(name="metrics").metrics
            metrics.items.add(key="num-examples", integer=1)
        self._pending = reply
        reply.bytes_follow = sum(map(len, self._data.values())) <= UNASKED_BYTES
        self._send(reply=reply)
        reply.bytes_follow, follow = False, reply.bytes_follow
        if follow:
            self._bulk += [(number, [data], 0) for number, data in self._data.items()]
            self._wake.set()

"""The agent: one stream to the server, one executor, one client served at a time.

It says when it is free, is given a task, fetches the arrays it lacks, has the executor handle the
message, and sends the reply. The app's code never runs in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from fedkube import __version__
from fedkube.core.errors import AppInvalid, Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import executor_pb2 as xpb
from fedkube.wire import channels, frames
from fedkube.wire.limits import MAX_REPLY_BYTES, PROTOCOL
from fedkube.wire.tensors import digest
from fedkube.wire.transfers import Incoming, check_announced
from fedkube_client.executor import AppSettings, Ended, Executor
from fedkube_client.segments import Segment, SegmentCache, layout

log = logging.getLogger("fedkube.client")

# One message to an executor can pass about 250 descriptors of segments.
_MAX_SEGMENTS = 100

# An executor that is killed while it loads the app is started again so often in all.
_LOAD_TRIES = 3


@dataclass(slots=True)
class _Work:
    """The task that this worker has."""

    task: pb.Task
    segment: Segment | None = None
    entries: list[tuple[bytes, int, int]] = field(default_factory=list)
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    executing: bool = False

    def close(self) -> None:
        """Give back what was received for a task that was not executed."""
        if self.segment is not None:
            self.segment.close()
            self.segment = None


@dataclass(slots=True)
class _Outgoing:
    """A reply, and views of the arrays that have to be sent with it, in their segment."""

    reply: pb.Reply
    views: list[memoryview] = field(default_factory=list)
    segment: Segment | None = None

    def close(self) -> None:
        self.views.clear()
        if self.segment is not None:
            self.segment.close()


class Refused(Exception):
    """The server will not have this worker; trying again would not help."""


class Agent:
    """One worker. ``run`` returns when the server says goodbye."""

    def __init__(
        self,
        address: str,
        name: str,
        credentials: channels.Credentials,
        app: AppSettings,
        cache_bytes: int,
    ) -> None:
        self._address = address
        self.name = name
        self._credentials = credentials
        self._app = app
        self._executor: Executor | None = None
        self._cache = SegmentCache(cache_bytes)
        self._dropped: list[int] = []
        self._replies = 0

    # ------------------------------------------------------------- connections

    async def run(self, give_up_s: float) -> None:
        """Serve until the server says goodbye; Refused if it will not have us.

        A lost connection is made again, after waits that grow and vary; the server has given our
        task to another by then. Without a server for ``give_up_s`` seconds, this ends too.
        """
        loop = asyncio.get_running_loop()
        last_seen = loop.time()
        tries = 0
        try:
            while True:
                session = _Session(self)
                try:
                    if await session.serve(channels.connect(self._address, self._credentials)):
                        return
                except grpc.aio.AioRpcError as error:
                    if error.code() in (
                        grpc.StatusCode.PERMISSION_DENIED,
                        grpc.StatusCode.INVALID_ARGUMENT,
                    ):
                        raise Refused(error.details() or "refused") from None
                except Rejected as error:
                    log.warning("the server broke a rule of the exchange: %s", error.message)
                if session.greeted:
                    last_seen, tries = loop.time(), 0
                if loop.time() - last_seen > give_up_s:
                    raise Refused(f"no server at {self._address} for {give_up_s:g} s")
                tries += 1
                await asyncio.sleep(min(5.0, 0.1 * 2**tries) * random.uniform(0.5, 1.0))  # noqa: S311
        finally:
            self.close()

    def close(self) -> None:
        """End the executor and free the cache."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None
        self._cache.close()

    # ------------------------------------------------------------- the executor

    async def warm(self, welcome: pb.Welcome) -> Executor:
        """An executor with the app loaded; AppInvalid if it cannot be loaded."""
        self._cache.limit = welcome.cache_bytes or self._cache.limit
        request = xpb.Load(
            app_dir=str(self._app.folder),
            component=self._app.component,
            flower_run=welcome.flower_run,
            run_config=welcome.run_config,
        )
        if self._executor is not None and not self._executor.usable:
            self.discard_executor()
        tries = 0
        while self._executor is None:
            # Started here and not on a thread: the kernel ends it with the thread that made it.
            executor = Executor(self._app)
            try:
                await asyncio.to_thread(executor.load, request)
                self._executor = executor
            except Ended as ended:
                tries += 1
                if tries == _LOAD_TRIES or ended.failure.code != pb.Failure.KILLED:
                    reason = f"{ended.failure.reason}, while it loaded the ClientApp"
                    raise AppInvalid(reason, details=reason) from None
            finally:
                if self._executor is not executor:
                    executor.close()
        return self._executor

    def discard_executor(self) -> None:
        """The process is gone, and with it what it had mapped."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None
            self._dropped = []

    def interrupt(self, because: str) -> None:
        """End what the executor is doing by ending it."""
        if self._executor is not None:
            self._executor.kill(because)

    # ------------------------------------------------------------- arrays

    def prepare(self, work: _Work, incoming: Incoming) -> list[int]:
        """Make room for the arrays that are missing; the ids of those that have to be asked for."""
        task = work.task
        check_announced(task.blobs, MAX_REPLY_BYTES)
        places = {blob.digest: self._cache.find(blob.digest) for blob in task.blobs}
        if len({place.segment for place in places.values() if place}) > _MAX_SEGMENTS:
            # A model whose parts came one by one, over many rounds, is fetched as a whole.
            places = dict.fromkeys(places)
        missing = {blob.digest: blob for blob in task.blobs if places[blob.digest] is None}
        if not missing:
            work.whole.set()
            return []
        blobs = list(missing.values())
        offsets, size = layout([blob.nbytes for blob in blobs])
        work.segment = Segment.create(size)
        for blob, offset in zip(blobs, offsets, strict=True):
            work.entries.append((blob.digest, offset, blob.nbytes))
            incoming.expect(blob, work.segment.view[offset : offset + blob.nbytes])
        if not incoming.waiting:
            work.whole.set()
        return [blob.id for blob in blobs if blob.held and blob.nbytes]

    async def execute(self, work: _Work, executor: Executor) -> _Outgoing:
        """Have the task's message handled; what has to be sent."""
        task = work.task
        if work.segment is not None:
            self._cache.add(work.segment, work.entries)
            work.segment = None
        places = []
        for blob in task.blobs:
            place = self._cache.find(blob.digest)
            assert place is not None, "every blob of a whole task is in the cache"
            places.append(place)
        used = {place.segment for place in places}
        self._dropped += self._cache.shrink(used)
        request = xpb.Execute(task=task, places=places, dropped=self._dropped)
        self._dropped = []
        segments = {number: self._cache.descriptor(number) for number in used}
        timer = None
        if task.timeout_s:
            because = f"the client took longer than its timeout of {task.timeout_s:g} s"
            loop = asyncio.get_running_loop()
            timer = loop.call_later(task.timeout_s, executor.kill, because)
        work.executing = True
        try:
            return await asyncio.to_thread(self._execute, executor, request, segments)
        finally:
            work.executing = False
            if timer is not None:
                timer.cancel()

    def _execute(
        self, executor: Executor, request: xpb.Execute, segments: dict[int, tuple[int, int]]
    ) -> _Outgoing:
        """On a thread. Of arrays that the server itself sent us, only the digest goes back."""
        executed, segment = executor.execute(request, segments)
        task = request.task
        reply = pb.Reply(task=task.id, attempt=task.attempt)
        if executed.WhichOneof("outcome") == "failure":
            reply.failure.CopyFrom(executed.failure)
            return _Outgoing(reply)
        reply.content.CopyFrom(executed.content)
        reply.state.CopyFrom(executed.state)
        reply.created_at, reply.ttl = executed.created_at, executed.ttl
        known = {blob.digest for blob in task.blobs}
        views = []
        for place in executed.places:
            assert segment is not None
            view = segment.view[place.offset : place.offset + place.nbytes]
            self._replies += 1
            blob = reply.blobs.add(id=self._replies, digest=digest(view), nbytes=place.nbytes)
            blob.held = blob.digest in known
            if not blob.held:
                views.append(view)
        return _Outgoing(reply, views, segment)


class _Session:
    """One connection of an agent to its server."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._incoming = Incoming()
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=4)
        self._work: _Work | None = None
        self._tasks: asyncio.Queue[_Work | None] = asyncio.Queue()
        self.greeted = False

    async def serve(self, channel: Any) -> bool:
        """Use the channel until it ends; True if the server said goodbye."""
        async with channel:
            call = channel.stream_stream(channels.SESSION)(self._frames())
            hello = pb.Hello(protocol=PROTOCOL, worker=self._agent.name, version=__version__)
            await self._send(pb.WorkerFrame(hello=hello))
            worker: asyncio.Task[None] | None = None
            try:
                async for frame in call:
                    if worker is not None and worker.done():
                        worker.result()
                    if frames.is_data(frame):
                        self._data(frame)
                        continue
                    message = frames.read_control(frame, pb.ServerFrame)
                    match message.WhichOneof("kind"):
                        case "welcome":
                            self.greeted = True
                            worker = asyncio.create_task(self._serve_tasks(message.welcome))
                            worker.add_done_callback(lambda done: _cancel_if_failed(done, call))
                        case "task":
                            await self._begin(message.task)
                        case "cancel":
                            self._cancel(message.cancel)
                        case "settled":
                            self._note(message.settled)
                        case "goodbye":
                            return True
                        case other:
                            raise Rejected(f"frame {other!r} does not belong here")
            except asyncio.CancelledError:
                if worker is None or not worker.done():
                    raise
                worker.result()
            finally:
                await self._end(worker)
        return False

    async def _end(self, worker: asyncio.Task[None] | None) -> None:
        if self._work is not None:
            # The server gives the task to another; what we would send is not waited for.
            self._work.cancelled = True
            if self._work.executing:
                self._agent.interrupt("the connection to the server ended")
        self._tasks.put_nowait(None)
        if worker is not None:
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await worker
        if self._work is not None:
            self._work.close()

    # ------------------------------------------------------------- out

    async def _frames(self) -> AsyncIterator[bytes]:
        while (frame := await self._outgoing.get()) is not None:
            yield frame

    async def _send(self, message: pb.WorkerFrame) -> None:
        await self._outgoing.put(frames.control(message))

    # ------------------------------------------------------------- in

    def _data(self, frame: bytes) -> None:
        whole = self._incoming.write(*frames.read_data(frame))
        if whole and self._work is not None and not self._incoming.waiting:
            self._work.whole.set()

    async def _begin(self, task: pb.Task) -> None:
        work = _Work(task)
        self._work = work
        need = self._agent.prepare(work, self._incoming)
        if need:
            frame = pb.Need(task=task.id, attempt=task.attempt, blobs=need)
            await self._send(pb.WorkerFrame(need=frame))
        self._tasks.put_nowait(work)

    def _cancel(self, cancel: pb.Cancel) -> None:
        work = self._work
        if work is None or (work.task.id, work.task.attempt) != (cancel.task, cancel.attempt):
            return
        work.cancelled = True
        self._incoming.forget([blob.id for blob in work.task.blobs])
        if work.executing:
            self._agent.interrupt("the server no longer waits for this client")
        work.whole.set()

    def _note(self, settled: pb.Settled) -> None:
        if settled.refused:
            log.warning("the server did not count a reply: %s", settled.refused)

    # ------------------------------------------------------------- the work

    async def _serve_tasks(self, welcome: pb.Welcome) -> None:
        """Serve one task after the other; each begins with the executor being warm."""
        while True:
            try:
                executor = await self._agent.warm(welcome)
            except AppInvalid as error:
                await self._send(pb.WorkerFrame(app_broken=pb.AppBroken(traceback=error.details)))
                return
            await self._send(pb.WorkerFrame(ready=pb.Ready()))
            work = await self._tasks.get()
            if work is None:
                return
            await work.whole.wait()
            if not work.cancelled:
                await self._serve_one(work, executor)
            work.close()
            self._work = None

    async def _serve_one(self, work: _Work, executor: Executor) -> None:
        try:
            outgoing = await self._agent.execute(work, executor)
        except Ended as ended:
            self._agent.discard_executor()
            outgoing = _Outgoing(_failed(work.task, ended.failure))
        try:
            if not work.cancelled:
                await self._reply(work, outgoing)
        finally:
            outgoing.close()

    async def _reply(self, work: _Work, outgoing: _Outgoing) -> None:
        reply, views = outgoing.reply, outgoing.views
        try:
            header = frames.control(pb.WorkerFrame(reply=reply))
        except Rejected as error:
            reply = _failed(work.task, pb.Failure(code=pb.Failure.REFUSED, reason=error.message))
            header, views = frames.control(pb.WorkerFrame(reply=reply)), []
        await self._outgoing.put(header)
        sent = [blob.id for blob in reply.blobs if not blob.held]
        for number, view in zip(sent, views, strict=True):
            for frame in frames.data(number, view):
                if work.cancelled:
                    return
                await self._outgoing.put(frame)


def _failed(task: pb.Task, failure: pb.Failure) -> pb.Reply:
    return pb.Reply(task=task.id, attempt=task.attempt, failure=failure)


def _cancel_if_failed(done: asyncio.Task[None], call: Any) -> None:
    if not done.cancelled() and done.exception() is not None:
        call.cancel()

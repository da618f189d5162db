"""The agent: one stream to the server, one executor, clients served one after the other.

It says when it is free, is given a task for some clients, fetches the arrays it lacks, has the
executor make the calls, and sends their replies, or keeps the sum of their updates until it is
asked for. The app's code never runs in this process. A cut of the stream interrupts nothing: both
ends say what they have, and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from fedkube import __version__
from fedkube.core.errors import AppInvalid, Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import executor_pb2 as xpb
from fedkube.wire import channels, contents, frames
from fedkube.wire.limits import MAX_REPLY_BYTES, PROTOCOL
from fedkube.wire.stream import Connect, Stream, attend
from fedkube.wire.transfers import Incoming, Progress, check_announced
from fedkube.wire.uploads import Uploads
from fedkube_client.executor import AppSettings, Ended, Executor
from fedkube_client.memory import GaveWay, said, taken_back
from fedkube_client.segments import Segment, SegmentCache, layout
from fedkube_client.sums import HeldSum

log = logging.getLogger("fedkube.client")

# One message to an executor can pass about 250 descriptors of segments.
_MAX_SEGMENTS = 100

# An executor that is killed while it loads the app is started again so often in all.
_LOAD_TRIES = 3


@dataclass(slots=True)
class _Work:
    """The assignment that this worker has."""

    task: pb.Task
    segment: Segment | None = None
    entries: list[tuple[bytes, int, int]] = field(default_factory=list)
    incoming: Incoming = field(default_factory=Incoming)
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: set[int] = field(default_factory=set)
    executing: bool = False

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for any of its calls."""
        return all(call.id in self.cancelled for call in self.task.calls)

    def close(self) -> None:
        """Give back what was received for a task that was not executed."""
        if self.segment is not None:
            self.segment.close()
            self.segment = None


class Agent:
    """One worker. ``run`` returns when the server says goodbye.

    ``connect``, ``start``: how a channel to the server is made, and an executor. ``shares``: it has
    its device together with other workers, and leaves when memory runs out there.
    """

    def __init__(
        self,
        address: str,
        name: str,
        credentials: channels.Credentials,
        app: AppSettings,
        cache_bytes: int,
        connect: Connect = channels.connect,
        start: Callable[[AppSettings], Executor] = Executor,
        *,
        shares: bool = False,
    ) -> None:
        self._address = address
        self.name = name
        self._credentials = credentials
        self._app = app
        self._connect = connect
        self._start = start
        self._shares = shares
        self._gives_way = False
        self._abandons = False
        self._in_vain: Callable[[], object] | None = None
        self._incarnation = uuid.uuid4().hex
        self._began = time.time()
        self._executor: Executor | None = None
        self._cache = SegmentCache(cache_bytes)
        self._dropped: list[int] = []
        self._uncounted: set[int] = set()  # calls, of which the executor has not been told
        self._tasks: asyncio.Queue[_Work | None] = asyncio.Queue()  # None: it is to leave
        self._work: _Work | None = None
        self._idle = False
        self._uploads = Uploads()
        self._settled = asyncio.Event()
        self._sums: dict[int, HeldSum] = {}
        self._flushing = False
        self._app_broken = ""
        self._stream: Stream | None = None
        self._serving: asyncio.Task[None] | None = None

    # ------------------------------------------------------------- connections

    async def run(self, give_up_s: float) -> None:
        """Serve until the server says goodbye; Refused if it will not have us."""
        try:
            await attend(self, self._address, self._credentials, give_up_s, self._connect)
        finally:
            await self._end()

    def hello(self) -> pb.Hello:
        """Who this worker is, and what it still has."""
        return pb.Hello(
            protocol=PROTOCOL,
            worker=self.name,
            version=__version__,
            incarnation=self._incarnation,
            began=self._began,
            assignments=self._assignments(),
            held=[call for held in self._sums.values() for call in held.calls],
        )

    def _assignments(self) -> list[int]:
        """Those that the server has not had the whole reply to."""
        begun = [self._work.task.assignment] if self._work else []
        return begun + self._uploads.assignments

    def greeted(self, stream: Stream, welcome: pb.Welcome) -> None:
        """The server has us: say what we have, and go on."""
        self._stream = stream
        self._uploads.resume(stream)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve(welcome))
            self._serving.add_done_callback(lambda _: self._hang_up())
            return
        if self._serving.done():
            self._hang_up()
        if self._work is not None:
            self._ask(self._work, self._work.incoming.wants())
        if self._app_broken:
            self._tell_app_broken()
        elif self._idle:
            self._ready()

    def cut(self) -> None:
        """Frames can wait: the next Hello makes up for those that are not sent."""
        self._stream = self._uploads.stream = None
        if self._in_vain is not None:
            self._in_vain()

    def _hang_up(self) -> None:
        """Serving has ended by an error: so does the agent."""
        if self._stream is not None:
            self._stream.hang_up()

    def check(self) -> None:
        """Raise what serving has ended by."""
        if self._serving is not None and self._serving.done():
            self._serving.result()

    async def _end(self) -> None:
        if self._work is not None and self._work.executing:
            self.interrupt("the connection to the server ended")
        if self._serving is not None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._serving
        if self._work is not None:
            self._work.close()
        self.close()

    def close(self) -> None:
        """End the executor and free the cache."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None
        self._cache.close()

    def _send(self, frame: bytes) -> None:
        if self._stream is not None:
            self._stream.send(frame)  # without a stream, the next Hello makes up for it

    # ------------------------------------------------------------- what the server says

    def receive(self, frame: bytes) -> bool:
        """Take a frame; True if it is the goodbye. Rejected if it breaks a rule."""
        if frames.is_data(frame):
            for part in frames.read_data(frame):
                self._data(*part)
            return False
        message = frames.read_control(frame, pb.ServerFrame)
        match message.WhichOneof("kind"):
            case "task":
                self._begin(message.task)
            case "cancel":
                self._cancel(message.cancel)
            case "settled":
                self._note(message.settled)
            case "need":
                self._uploads.give(message.need)
            case "received":
                if self._stream is not None:
                    self._stream.received(message.received)
            case "flush":
                self._flush()
            case "goodbye":
                return True
            case other:
                raise Rejected(f"frame {other!r} does not belong here")
        return False

    def _data(self, number: int, offset: int, data: memoryview) -> None:
        work = self._work
        if work is None:
            return
        match work.incoming.write(number, offset, data):
            case Progress.CORRUPT:
                log.warning("an array came with a wrong digest: asked again")
                self._ask(work, [pb.Want(blob=number, offset=0)])
            case Progress.WHOLE:
                if not work.incoming.waiting:
                    work.whole.set()

    def _begin(self, task: pb.Task) -> None:
        if self._work is not None:
            raise Rejected("a task came before the one before it was done")
        self._idle = False
        self._work = work = _Work(task)
        asked = self._prepare(work)
        self._ask(work, asked)
        self._tasks.put_nowait(work)

    def _ask(self, work: _Work, wants: list[pb.Want]) -> None:
        if wants:
            need = pb.Need(of=work.task.assignment, wants=wants)
            self._send(frames.control(pb.WorkerFrame(need=need)))

    def _prepare(self, work: _Work) -> list[pb.Want]:
        """Make room for the arrays that are missing; those that have to be asked for."""
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
        work.segment = self._cache.make(size)
        for blob, offset in zip(blobs, offsets, strict=True):
            work.entries.append((blob.digest, offset, blob.nbytes))
            work.incoming.expect(blob, work.segment.sink(offset))
        if not work.incoming.waiting:
            work.whole.set()
        return [pb.Want(blob=blob.id) for blob in blobs if blob.held and blob.nbytes]

    def _cancel(self, cancel: pb.Cancel) -> None:
        self._uncounted.update(cancel.calls)
        work = self._work
        if work is None:
            return
        work.cancelled |= set(cancel.calls)
        if work.task.assignment in cancel.assignments:
            work.cancelled |= {call.id for call in work.task.calls}
        if work.executing:
            if self._executor is not None and self._executor.serving(work.task) in work.cancelled:
                self.interrupt("the server no longer waits for this client")
        elif work.unwanted:
            work.incoming.forget([blob.id for blob in work.task.blobs])
            work.whole.set()

    def _note(self, settled: pb.Settled) -> None:
        for refusal in settled.refused:
            log.warning("the server did not count a reply: %s", refusal.reason)
            self._uncounted.add(refusal.call)
        self._uploads.settle(settled.upload)
        self._settled.set()
        if self._flushing:
            self._flush()

    def _flush(self) -> None:
        """Send the sums of the clients served so far.

        The server knows by a client's reply that its update is in a sum: replies go first.
        """
        self._flushing = bool(self._uploads.assignments)
        if self._flushing:
            return
        for held in self._sums.values():
            frame, pieces = held.export()
            self._uploads.send(self._uploads.add(frame, pieces, held.known))
        self._sums.clear()

    def _ready(self) -> None:
        self._send(frames.control(pb.WorkerFrame(ready=pb.Ready())))

    def _tell_app_broken(self) -> None:
        broken = pb.AppBroken(traceback=self._app_broken)
        self._send(frames.control(pb.WorkerFrame(app_broken=broken)))

    # ------------------------------------------------------------- the work

    async def _serve(self, welcome: pb.Welcome) -> None:
        """Serve one assignment after the other; each begins with the executor being warm."""
        while True:
            try:
                executor = await self._warm(welcome)
            except AppInvalid as error:
                if self._shares and said(error.details):
                    await self._leave()
                self._app_broken = error.details
                self._tell_app_broken()
                return
            while self._uploads.large > 1:
                # The arrays of clients that were served must not pile up here.
                await self._until_settled()
            self._idle = True
            self._ready()
            work = await self._tasks.get()
            if work is None:
                await self._leave()
            await work.whole.wait()
            if not work.unwanted:
                await self._serve_one(work, executor)
            work.close()
            self._work = None
            if self._gives_way:
                await self._leave()

    def retreat(self, in_vain: Callable[[], object]) -> bool:
        """Leave as soon as the clients that are being served are; False if nobody waits for them.

        ``run`` raises GaveWay then. ``in_vain``: called when nobody waits any more.
        """
        if self._stream is None or self._serving is None:
            return False
        self._gives_way = True
        self._in_vain = in_vain
        if self._work is None:
            self._tasks.put_nowait(None)
        return True

    def abandon(self) -> None:
        """Give back what is being served: the time to leave is over."""
        self._abandons = True
        self.interrupt("its worker had to go")

    async def _leave(self) -> NoReturn:
        """Go, when the server has all that this worker has to give."""
        while list(self._uploads):
            await self._until_settled()
        self._flush()
        while list(self._uploads):
            await self._until_settled()
        raise GaveWay

    async def _until_settled(self) -> None:
        self._settled.clear()
        await self._settled.wait()

    async def _serve_one(self, work: _Work, executor: Executor) -> None:
        began = asyncio.get_running_loop().time()
        try:
            outcomes, blobs, views = await self._execute(work, executor)
        except Ended as ended:
            self._discard_executor()
            outcomes, blobs, views = _unserved(work.task, ended), [], []
            if self._abandons:
                for outcome in outcomes:
                    outcome.failure.code = pb.Failure.NOT_SERVED
        if self._shares and taken_back(outcomes):
            self._gives_way = True
            self._discard_executor()  # what it has is free before another worker tries
        reply = pb.Reply(
            assignment=work.task.assignment,
            outcomes=outcomes,
            seconds=asyncio.get_running_loop().time() - began,
        )
        if work.unwanted:
            return
        if work.task.HasField("fold"):
            self._hold(work, reply, blobs, views)
        used = _references(reply)
        if used:
            numbers = {old: new for new, old in enumerate(used)}
            for outcome in reply.outcomes:
                contents.renumber(outcome.content, numbers.__getitem__)
                contents.renumber(outcome.state, numbers.__getitem__)
        reply.blobs.extend(blobs[old] for old in used)
        known = {blob.digest for blob in work.task.blobs}
        upload = self._uploads.add(reply, [[views[old]] for old in used], known)
        try:
            upload.announcement()
        except Rejected as error:
            self._uploads.settle(reply.upload)
            failure = pb.Failure(code=pb.Failure.REFUSED, reason=error.message)
            failed = [pb.Outcome(call=call.id, failure=failure) for call in work.task.calls]
            reply = pb.Reply(assignment=work.task.assignment, outcomes=failed)
            upload = self._uploads.add(reply, [], known)
        self._work = None
        self._uploads.send(upload)

    def _hold(
        self, work: _Work, reply: pb.Reply, blobs: list[pb.Blob], views: list[memoryview]
    ) -> None:
        """Put the updates into the sum."""
        task = work.task
        held = self._sums.get(task.fold.id)
        if held is None:
            held = self._sums[task.fold.id] = HeldSum(task, self._views(task))
        for outcome in reply.outcomes:
            if outcome.call in work.cancelled or not outcome.HasField("content"):
                continue
            try:
                reason = held.add(outcome, blobs, views)
            except Rejected as error:
                reason = error.message
            if reason is not None:
                code = pb.Failure.REFUSED
                reason = f"the update was refused: {reason}"
                outcome.failure.CopyFrom(pb.Failure(code=code, reason=reason))
                self._uncounted.add(outcome.call)

    def _views(self, task: pb.Task) -> list[memoryview]:
        """The task's own arrays."""
        views = []
        for blob in task.blobs:
            place = self._cache.find(blob.digest)
            assert place is not None, "the task has just been served"
            views.append(self._cache.view(place))
        return views

    async def _execute(
        self, work: _Work, executor: Executor
    ) -> tuple[list[pb.Outcome], list[pb.Blob], list[memoryview]]:
        """Have the task's calls made; their outcomes, and the arrays that these refer to.

        Of those that are the task's own, the digests are known.
        """
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
        request = xpb.Execute(
            task=task, places=places, dropped=self._dropped, uncounted=sorted(self._uncounted)
        )
        self._dropped = []
        self._uncounted.clear()
        segments = {number: self._cache.descriptor(number) for number in used}
        timer = None
        if task.timeout_s:
            because = f"the client took longer than its timeout of {task.timeout_s:g} s"
            loop = asyncio.get_running_loop()
            timer = loop.call_later(task.timeout_s, executor.kill, because)
        work.executing = True
        try:
            executed, views = await asyncio.to_thread(
                executor.execute, request, segments, self._views(task)
            )
        finally:
            work.executing = False
            if timer is not None:
                timer.cancel()
        self._cache.unmapped(executed.unmapped)
        blobs = [
            pb.Blob(
                nbytes=len(view),
                digest=task.blobs[place.received].digest if place.HasField("received") else b"",
            )
            for place, view in zip(executed.places, views, strict=True)
        ]
        return list(executed.outcomes), blobs, views

    # ------------------------------------------------------------- the executor

    async def _warm(self, welcome: pb.Welcome) -> Executor:
        """An executor with the app loaded; AppInvalid if it cannot be loaded."""
        self._cache.limit = welcome.cache_bytes or self._cache.limit
        request = xpb.Load(
            app_dir=str(self._app.folder),
            component=self._app.component,
            flower_run=welcome.flower_run,
            run_config=welcome.run_config,
            partitions=welcome.partitions,
            node_config=self._app.node_config,
        )
        if self._executor is not None and not self._executor.usable:
            self._discard_executor()
        tries = 0
        while self._executor is None:
            # Started here and not on a thread: the kernel ends it with the thread that made it.
            executor = self._start(self._app)
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

    def _discard_executor(self) -> None:
        """The process is gone, and with it what it had mapped."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None
            self._dropped = []
            self._cache.unmapped([])

    def interrupt(self, because: str) -> None:
        """End what the executor is doing by ending it."""
        if self._executor is not None:
            self._executor.kill(because)


def _unserved(task: pb.Task, ended: Ended) -> list[pb.Outcome]:
    """The process ended in one call: that one failed, and the others have to be made again."""
    outcomes = []
    for place, call in enumerate(task.calls):
        outcome = pb.Outcome(call=call.id)
        if place == ended.place:
            outcome.failure.CopyFrom(ended.failure)
        else:
            outcome.failure.code = pb.Failure.NOT_SERVED
        outcomes.append(outcome)
    return outcomes


def _references(reply: pb.Reply) -> list[int]:
    """The blobs that the outcomes refer to, each once."""
    used: dict[int, None] = {}
    for outcome in reply.outcomes:
        for content in (outcome.content, outcome.state):
            used |= dict.fromkeys(entry.blob for entry in contents.references(content))
    return list(used)

"""One worker: frames out in order of urgency, uploads in as their bytes come.

A session outlives a cut of its stream: the worker comes back within a while, both ends say what
they have, and transfers go on from where they were.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fedkube.core.errors import Environment, FedKubeError, Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import (
    MAX_REPLY_BYTES,
    MIN_BYTES_PER_S,
    MIN_RATE_WINDOW_S,
    MODERATE_AFTER_S,
    MODERATE_BYTES_PER_S,
    RECEIVED_BYTES,
    SLOW_BYTES_PER_S,
    UNASKED_BYTES,
)
from fedkube.wire.transfers import Incoming, Progress, check_announced
from fedkube_server.blobs import StoredBlob
from fedkube_server.credits import Credits
from fedkube_server.driver import Driver
from fedkube_server.landing import Landed, Room, Spool
from fedkube_server.unpacking import Unpacked

log = logging.getLogger("fedkube.server")


# A worker's cache keeps what a task of the last so many has used.
_REMEMBERED_TASKS = 3

EXPIRED = "its certificate has expired"

# A shorter time says nothing about how fast an upload is.
_LOOK_S = 0.5


@dataclass(slots=True)
class Shared:
    """What all sessions of a server share. ``clock``: seconds that never jump."""

    driver: Driver
    spool: Spool
    credits: Credits
    app_broken: Callable[[str], None]
    broken: Callable[[FedKubeError], None]  # the server itself has failed
    clock: Callable[[], float] = time.monotonic


@dataclass(slots=True, eq=False)
class _Arriving:
    """An upload whose bytes are still coming.

    ``landed``: where each blob is, or will be. ``coming``: those that have to come. ``unpacked``:
    arrays in the place of compressed ones. ``since``, ``received``: seconds that never jump, and
    the bytes that came from then on.
    """

    frame: pb.Reply | pb.Sum
    landed: list[Landed] = field(default_factory=list)
    coming: list[tuple[pb.Blob, Landed]] = field(default_factory=list)
    unpacked: list[Unpacked] = field(default_factory=list)
    incoming: Incoming = field(default_factory=Incoming)
    room: Room | None = None
    since: float = 0.0
    received: int = 0


class Session:
    """What a worker is to the server, from its first Hello until it is gone."""

    def __init__(
        self,
        name: str,
        incarnation: str,
        shared: Shared,
        clients: frozenset[int] | None = None,
        *,
        relays: bool = False,
    ) -> None:
        self.name = name
        self.incarnation = incarnation
        self.began = 0.0  # by the worker's clock
        self.clients = clients  # that it may serve; None: any
        self.relays = relays  # for workers of its own, and so may have several assignments
        self.trouble = ""  # why its stream had to be ended
        self.banned = ""  # why it may not come back
        self._heard = time.monotonic()
        self.expires = math.inf  # when its certificate does, in seconds that never jump
        self._shared = shared
        self._driver = shared.driver
        self._control: deque[bytes] = deque()
        self._bulk: deque[frames.Bulk] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._came = 0  # bytes of data frames, by this stream
        self._said = 0  # of them, to the worker
        self._probe = 0  # its newest
        self._owes = False  # a word of both
        self._held: dict[bytes, int] = {}  # digests that the worker was sent; last use of each
        self._tasks = 0
        self._given: dict[int, dict[int, StoredBlob]] = {}  # assignment to its blobs by id
        self._calls: dict[int, set[int]] = {}  # assignment to its calls
        self._uploads: dict[int, _Arriving] = {}
        self._blobs: dict[int, _Arriving] = {}  # blob id to the upload it is of
        self._settled = 0  # the newest upload that was settled

    # ------------------------------------------------------------- the stream

    def greet(self, welcome: pb.Welcome, hello: pb.Hello) -> None:
        """Answer the worker's Hello.

        Of one that is back after a cut, forget what was on its way, find out what the cut has
        swallowed, and have it drop what nobody waits for any more.
        """
        self._control.clear()
        self._bulk.clear()
        self._came = self._said = self._probe = 0
        self._owes = False
        self._send(pb.ServerFrame(welcome=welcome))
        now = self._shared.clock()
        for arriving in self._uploads.values():
            arriving.since, arriving.received = now, 0
        there = set(hello.assignments)
        announced = {
            each.frame.assignment
            for each in self._uploads.values()
            if isinstance(each.frame, pb.Reply)
        }
        for assignment in [each for each in self._calls if each not in there | announced]:
            self._driver.lost(self, self._calls[assignment])
            self._forget(assignment)
        unknown = there - set(self._calls)
        if unknown:
            self._send(pb.ServerFrame(cancel=pb.Cancel(assignments=sorted(unknown))))
        if hello.held:
            self.flush()  # the word of it may have been lost

    def close(self, reason: str) -> None:
        """Say goodbye and let the stream end."""
        if not self._closing:
            self._send(pb.ServerFrame(goodbye=pb.Goodbye(reason=reason)))
            self._closing = True
            self._wake.set()

    def end(self) -> None:
        """The worker is gone for good; what has arrived whole is still counted."""
        for arriving in list(self._uploads.values()):
            if arriving.incoming.waiting or arriving.room is None:
                self._drop(arriving)

    # ------------------------------------------------------------- out

    def give(self, frame: pb.Task, blobs: list[StoredBlob]) -> None:
        """Send a task; its blobs follow, but for those that the worker was sent before."""
        self._tasks += 1
        offered = {blob.id: blob for blob in blobs}
        fresh = [blob for blob in offered.values() if blob.digest not in self._held]
        for blob in blobs:
            held = blob.digest in self._held
            frame.blobs.add(id=blob.id, digest=blob.digest, nbytes=len(blob.data), held=held)
        self._send(pb.ServerFrame(task=frame))
        self._given[frame.assignment] = offered
        self._calls[frame.assignment] = {call.id for call in frame.calls}
        self._bulk += [(blob.id, [blob.data], 0) for blob in fresh]
        self._held |= {blob.digest: self._tasks for blob in blobs}
        if len(self._held) > 2 * len(blobs):
            # Only what a worker still has is of use; it asks where we are wrong.
            recent = self._tasks - _REMEMBERED_TASKS
            self._held = {key: last for key, last in self._held.items() if last > recent}

    def cancel(self, calls: list[int]) -> None:
        """Tell the worker to drop calls."""
        gone = set(calls)
        dropped: list[StoredBlob] = []
        for assignment, its in list(self._calls.items()):
            its -= gone
            if not its:
                dropped += self._given[assignment].values()
                self._forget(assignment)
        needed = {number for offered in self._given.values() for number in offered}
        for blob in dropped:
            # It may not have been sent yet, so it is offered again with the next.
            if blob.id not in needed:
                self._held.pop(blob.digest, None)
        if dropped:
            self._bulk = deque(item for item in self._bulk if item[0] in needed)
        self._send(pb.ServerFrame(cancel=pb.Cancel(calls=calls)))
        for arriving in list(self._uploads.values()):
            frame = arriving.frame
            if isinstance(frame, pb.Reply) and {each.call for each in frame.outcomes} <= gone:
                self._drop(arriving)
                self._settle(frame.upload, [])

    def flush(self) -> None:
        """Have the worker send the sums that it holds."""
        self._heard = time.monotonic()
        self._send(pb.ServerFrame(flush=pb.Flush()))

    async def pump(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write what there is to write until the session is closed; control frames go first."""
        while True:
            while self._owes or self._control or self._bulk:
                frame = self._next()
                if frame:
                    self._driver.bytes_down += len(frame)
                    await write(frame)
            if self._closing:
                return
            self._wake.clear()
            await self._wake.wait()

    def _next(self) -> bytes:
        if self._owes:
            self._owes, self._said = False, self._came
            received = pb.Received(bytes=self._came, probe=self._probe)
            return frames.control(pb.ServerFrame(received=received))
        return self._control.popleft() if self._control else frames.next_data(self._bulk)

    def _say_received(self) -> None:
        """One frame for all that came before it goes: a peer can ask faster than it reads."""
        self._owes = True
        self._wake.set()

    def _send(self, frame: pb.ServerFrame) -> None:
        self._control.append(frames.control(frame))
        self._wake.set()

    def _forget(self, assignment: int) -> None:
        self._given.pop(assignment, None)
        self._calls.pop(assignment, None)

    # ------------------------------------------------------------- in

    async def receive(self, frame: bytes) -> None:
        """A frame has come; Rejected breaks the session."""
        self._driver.bytes_up += len(frame)
        self._heard = time.monotonic()
        if frames.is_data(frame):
            self._came += len(frame)
            if self._came - self._said >= RECEIVED_BYTES:
                self._say_received()
            for part in frames.read_data(frame):
                await self._data(*part)
            return
        message = frames.read_control(frame, pb.WorkerFrame)
        match message.WhichOneof("kind"):
            case "ready":
                self._driver.ready(self)
            case "capacity":
                if not self.relays:
                    raise Rejected("only a relay has several assignments at a time")
                self._driver.widen(self, message.capacity.assignments)
            case "probe":
                self._probe = message.probe.number
                self._say_received()
            case "need":
                self._resend(message.need)
            case "reply":
                await self._announced(message.reply)
            case "sum":
                await self._announced(message.sum)
            case "app_broken":
                self._shared.app_broken(message.app_broken.traceback)
            case other:
                raise Rejected(f"frame {other!r} does not belong here")

    def _resend(self, need: pb.Need) -> None:
        offered = self._given.get(need.of)
        if offered is None:
            return  # asked before the worker heard that the task was taken back
        for want in need.wants:
            blob = offered.get(want.blob)
            if blob is None:
                raise Rejected(f"blob {want.blob} was asked for and never offered")
            if want.offset > len(blob.data):
                raise Rejected(f"blob {want.blob} ends before byte {want.offset}")
            self._bulk.append((blob.id, [blob.data], want.offset))
        self._wake.set()

    # ------------------------------------------------------------- uploads

    async def _announced(self, frame: pb.Reply | pb.Sum) -> None:
        arriving = self._uploads.get(frame.upload)
        if arriving is not None:
            self._ask(arriving)  # again after a cut; a later one may have been settled before
            return
        if frame.upload <= self._settled:
            self._settle(frame.upload, [])  # it was, and the word of it was lost
            return
        check_announced(frame.blobs, MAX_REPLY_BYTES)
        little = sum(blob.nbytes for blob in frame.blobs) <= UNASKED_BYTES
        arriving = self._examine(frame)
        self._check_ids(arriving)
        self._uploads[frame.upload] = arriving
        if not any(blob.nbytes for blob, _ in arriving.coming) or (frame.bytes_follow and little):
            self._make_room(arriving)
            await self._go_on(arriving)
        else:
            self._shared.credits.ask(arriving, lambda: self._granted(arriving))

    def _examine(self, frame: pb.Reply | pb.Sum) -> _Arriving:
        """Which of the upload's blobs have to come, and where each will be."""
        if isinstance(frame, pb.Reply):
            seen = self._driver.examine(self, frame)
        else:
            seen = self._driver.examine_sum(self, frame)
        arriving = _Arriving(frame)
        for index, blob in enumerate(frame.blobs):
            known = seen.known.get(blob.digest)
            if blob.held and index in seen.wanted and known is None:
                raise Rejected("an upload refers to bytes that the server did not send")
            if blob.held and known is not None and blob.nbytes != len(known.data):
                raise Rejected("an upload refers to bytes of ours, and to another number of them")
            if blob.held and known is not None:
                arriving.landed.append(Landed.known(known.data, known.peaks))
            elif index in seen.wanted:
                arriving.landed.append(Landed(blob.nbytes, seen.dtypes.get(index)))
                arriving.coming.append((blob, arriving.landed[-1]))
            else:
                arriving.landed.append(Landed.known(memoryview(b"")))
        for how in seen.unpackings:
            # Described as blobs that are here: only the bytes that they are made of have to come.
            frame.blobs.add(nbytes=how.nbytes)
            unpacked = Unpacked(arriving.landed[how.blob], how, self._shared.spool)
            arriving.unpacked.append(unpacked)
            arriving.landed.append(unpacked)
        return arriving

    def _check_ids(self, arriving: _Arriving) -> None:
        """Rejected here, where it is this worker's fault: credits may be given by another's end."""
        taken = {blob.id for each in self._uploads.values() for blob, _ in each.coming}
        for blob, _ in arriving.coming:
            if blob.id in taken:
                raise Rejected(f"blob {blob.id} was announced twice")
            taken.add(blob.id)

    def _granted(self, arriving: _Arriving) -> None:
        try:
            self._make_room(arriving)
        except Environment as error:
            self._shared.broken(error)  # whoever gave the credit back is not to blame
            return
        self._ask(arriving)

    def _make_room(self, arriving: _Arriving) -> None:
        arriving.room = self._shared.spool.room([landed for _, landed in arriving.coming])
        arriving.since = self._shared.clock()
        for blob, landed in arriving.coming:
            if not arriving.incoming.expect(blob, landed.write):
                self._blobs[blob.id] = arriving

    def _ask(self, arriving: _Arriving) -> None:
        wants = arriving.incoming.wants()
        if wants:
            need = pb.Need(of=arriving.frame.upload, wants=wants)
            self._send(pb.ServerFrame(need=need))

    async def _data(self, number: int, offset: int, data: memoryview) -> None:
        arriving = self._blobs.get(number)
        if arriving is None:
            return  # of an upload that has no use any more
        arriving.received += len(data)
        elapsed = self._shared.clock() - arriving.since
        if elapsed > MODERATE_AFTER_S and arriving.received < MODERATE_BYTES_PER_S * elapsed:
            self._shared.credits.moderate(arriving)
        match arriving.incoming.write(number, offset, data):
            case Progress.CORRUPT:
                log.warning("an array from %s came with a wrong digest: asked again", self.name)
                want = pb.Want(blob=number, offset=0)
                need = pb.Need(of=arriving.frame.upload, wants=[want])
                self._send(pb.ServerFrame(need=need))
            case Progress.WHOLE:
                del self._blobs[number]
                await self._go_on(arriving)

    async def _go_on(self, arriving: _Arriving) -> None:
        if not arriving.incoming.waiting:
            await self._driver.to_the_end(self._take(arriving))

    async def _take(self, arriving: _Arriving) -> None:
        """All of it is there."""
        self._shared.credits.release(arriving)
        frame = arriving.frame
        try:
            if isinstance(frame, pb.Reply):
                refused = await self._driver.answered(self, frame, arriving.landed)
                self._ended(frame)
            else:
                refused = await self._driver.summed(self, frame, arriving.landed)
            self._settle(frame.upload, refused)
        except FedKubeError as error:
            if isinstance(error, Rejected):
                raise
            self._shared.broken(error)
        finally:
            self._drop(arriving)

    def _ended(self, reply: pb.Reply) -> None:
        """These calls of an assignment are over; mostly, that is all of them."""
        left = self._calls.get(reply.assignment, set()) - {each.call for each in reply.outcomes}
        if reply.more and left:
            self._calls[reply.assignment] = left
        else:
            self._forget(reply.assignment)

    def _drop(self, arriving: _Arriving) -> None:
        self._shared.credits.release(arriving)
        self._uploads.pop(arriving.frame.upload, None)
        for blob, _ in arriving.coming:
            self._blobs.pop(blob.id, None)
        for unpacked in arriving.unpacked:
            unpacked.close()
        if arriving.room is not None:
            arriving.room.close()
            arriving.room = None

    def _settle(self, upload: int, refused: list[pb.Refusal]) -> None:
        self._settled = max(self._settled, upload)
        self._send(pb.ServerFrame(settled=pb.Settled(upload=upload, refused=refused)))

    def silent_s(self) -> float:
        """For how long it has been the worker's turn, and it has said nothing."""
        if any(each.room is None or not each.incoming.waiting for each in self._uploads.values()):
            return 0.0  # it waits until we ask for its upload, or are through with it
        return time.monotonic() - self._heard

    def look(self, now: float) -> str | None:
        """Look at how fast uploads come; why the session must end, where one is too slow.

        Or where the worker's certificate does not hold any more.
        """
        if now >= self.expires:
            return EXPIRED
        for arriving in self._uploads.values():
            elapsed = now - arriving.since
            if arriving.room is None or elapsed < _LOOK_S:
                continue
            rate = arriving.received / elapsed
            if rate < SLOW_BYTES_PER_S:
                # Its bytes do not pile up anywhere, so another may send beside it.
                self._shared.credits.release(arriving)
            if elapsed >= MIN_RATE_WINDOW_S:
                if rate < MIN_BYTES_PER_S and arriving.incoming.waiting:
                    return (
                        f"an upload came with {rate:.0f} bytes a second, and at least "
                        f"{MIN_BYTES_PER_S} are needed"
                    )
                arriving.since, arriving.received = now, 0
        return None

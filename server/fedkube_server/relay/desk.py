"""What a relay does with messages: hands their calls on, and sends up how each ended.

A call's update may be in three places: with a worker, in a sum that the worker keeps; in the
relay's own sum (``RelayFold``); on its way up. Above, it counts as *held* from when its client has
answered, and is in one place below at any time. When the server above asks for the sums, the relay
asks its workers, waits until everything is in its own, and sends that.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from fedkube.core import ids
from fedkube.core.errors import Rejected
from fedkube.core.tasks import Kind
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, updates
from fedkube.wire.limits import BATCH_BYTES
from fedkube.wire.uploads import Uploads
from fedkube_server.blobs import StoredBlob
from fedkube_server.calls import Answer, ClientState, Ending, NewTask, Outgoing
from fedkube_server.driver import Driver
from fedkube_server.folds import sent_arrays
from fedkube_server.relay.fetches import Whole
from fedkube_server.relay.folds import RelayFold

# The newest messages are kept while nothing is done with them: what they refer to is not sent to us
# again. A round has two, and mostly the next begins with what the last one's second had.
_MESSAGES = 3

# Answers of one assignment that come together go up in one reply, up to about so many bytes.
_REPLY_BYTES = 1024 * 1024


@dataclass(slots=True, eq=False)
class _Message:
    """A message from above.

    ``known``: digests of its arrays. ``more``: the server above has clients of it left. ``live``:
    its calls that have not ended. ``awaited``: those whose updates are in workers' sums, and
    ``inside``: in ours, with what the server above calls them. ``untold``: calls whose replies are
    on their way up. ``asked``: the server above wants the sum, and ``due``: it waits for these.
    """

    outgoing: Outgoing
    known: set[bytes]
    fold: RelayFold | None
    more: bool = False
    live: int = 0
    awaited: dict[int, int] = field(default_factory=dict)
    inside: dict[int, int] = field(default_factory=dict)
    untold: set[int] = field(default_factory=set)
    asked: bool = False
    due: set[int] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        """Whether it may not be forgotten."""
        return bool(self.live or self.inside or self.untold)


@dataclass(slots=True, eq=False)
class _Call:
    """``id``: here and below. ``number``: above. ``known``: digests of its client's state."""

    id: int
    number: int
    assignment: int
    message: _Message
    known: set[bytes]
    told: bool = False  # how it ended, or that its update is held

    @property
    def held(self) -> bool:
        """Whether its update is with a worker, or in our sum."""
        return self.id in self.message.awaited or self.id in self.message.inside


@dataclass(slots=True)
class _Result:
    """How a call ended, on its way into a reply. ``views``: the bytes that it refers to."""

    call: _Call
    outcome: pb.Outcome
    views: dict[int, memoryview]


class Desk:
    """Between the driver, which knows the workers, and the uploads to the server above."""

    def __init__(self, driver: Driver, uploads: Uploads) -> None:
        self._driver = driver
        self._uploads = uploads
        self._ids = itertools.count(ids.first_number(secrets.token_bytes(6)))
        self._messages: dict[tuple[bytes, ...], _Message] = {}  # the newest last
        self._kinds: dict[Hashable, _Message] = {}
        self._kind_ids = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._open: dict[int, set[int]] = {}  # assignment to its calls that were not told
        self._results: dict[int, list[_Result]] = {}  # by assignment
        self._replies: dict[int, list[_Call]] = {}  # upload to the calls that it tells of

    # ------------------------------------------------------------- from above

    def take(self, whole: Whole) -> None:
        """An assignment, all of whose arrays are here."""
        task = whole.task
        message = self._message(task, whole.blobs)
        message.more = task.fold.more
        tasks = []
        for asked in task.calls:
            state = _state(asked.state, whole.blobs)
            call = _Call(
                id=next(self._ids),
                number=asked.id,
                assignment=task.assignment,
                message=message,
                known={blob.digest for blob in state.blobs},
            )
            self._calls[call.id] = call
            self._open.setdefault(task.assignment, set()).add(call.id)
            asked.id = call.id
            asked.ClearField("state")
            tasks.append(
                NewTask(
                    id=call.id,
                    client=asked.partition,
                    call=asked,
                    message=message.outgoing,
                    admit=_admit,
                    settled=partial(self._settled, call),
                    expires_in_s=None,
                    held=partial(self._held, call),
                    state=state,
                )
            )
        message.live += len(tasks)
        self._driver.submit(tasks)

    def cancel(self, calls: set[int], assignments: set[int]) -> None:
        """The server above does not wait for these any more."""
        gone = [
            call.id
            for call in self._calls.values()
            if call.number in calls or call.assignment in assignments
        ]
        self._driver.withdraw(gone, pb.Failure.WITHDRAWN, "the server above took it back")

    def flush(self) -> None:
        """The server above wants the sums of what it was told of."""
        messages = list(self._messages.values())
        for message in messages:
            message.asked = bool(message.awaited or message.inside)
            message.due |= message.awaited.keys()
        self._driver.flush()
        for message in messages:
            self._send_sum(message)

    def settled(self, upload: int, refused: set[int]) -> None:
        """The server above has this; these of its calls do not count there."""
        calls = self._replies.pop(upload, [])
        for call in calls:
            call.message.untold.discard(call.id)
            self._send_sum(call.message)
        if any(call.number in refused and call.held for call in calls):
            # It was taken back when its client had answered. It cannot be taken out of a sum, which
            # would be kept for ever: the server says of the others in it that they count no more.
            self.flush()
        self._prune()

    # ------------------------------------------------------------- what is so now

    @property
    def assignments(self) -> list[int]:
        """Those that are not wholly answered."""
        return list(self._open)

    @property
    def held(self) -> list[int]:
        """The calls whose updates the server above was told of, and has not got."""
        return [
            number
            for message in self._messages.values()
            for calls in (message.awaited, message.inside)
            for number in calls.values()
        ]

    def more(self, kind: Kind) -> bool:
        """Whether the server above has more clients for this message."""
        return self._kinds[kind.key].more

    # ------------------------------------------------------------- from below

    def _held(self, call: _Call, answer: Answer) -> None:
        message = call.message
        message.awaited[call.id] = call.number
        if call.told:
            # The worker that had it was lost, and it was made again: this has been told before.
            if call.id in message.due:
                self._driver.flush()
            return
        self._tell(call, _copy(answer.outcome), answer.blobs)

    def _settled(self, call: _Call, ending: Ending) -> None:
        message = call.message
        del self._calls[call.id]
        message.live -= 1
        message.awaited.pop(call.id, None)
        message.due.discard(call.id)
        if not isinstance(ending, Answer):
            self._failed(call, ending)
        elif message.fold is None:
            self._tell(call, _copy(ending.outcome), ending.blobs)
        else:
            message.inside[call.id] = call.number
            if not call.told:
                outcome = _copy(ending.outcome)
                updates.hold(outcome)
                self._tell(call, outcome, ending.blobs)
        self._send_sum(message)

    def _failed(self, call: _Call, failure: pb.Failure) -> None:
        if failure.code == pb.Failure.WITHDRAWN:
            self._close(call)
            return
        if failure.code == pb.Failure.KILLED:
            # It was tried here as often as it may be: above, that must not begin again.
            failure.code = pb.Failure.CRASHED
        self._tell(call, pb.Outcome(failure=failure), ())

    # ------------------------------------------------------------- replies

    def _tell(self, call: _Call, outcome: pb.Outcome, blobs: Sequence[memoryview]) -> None:
        """Send how a call ended, with others that have just ended."""
        outcome.call = call.number
        used = {
            entry.blob
            for content in (outcome.content, outcome.state)
            for entry in contents.references(content)
        }
        result = _Result(call, outcome, {number: blobs[number] for number in sorted(used)})
        call.told = True
        call.message.untold.add(call.id)
        if not self._results:
            asyncio.get_running_loop().call_soon(self._reply)
        self._results.setdefault(call.assignment, []).append(result)
        self._close(call)

    def _close(self, call: _Call) -> None:
        left = self._open.get(call.assignment, set())
        left.discard(call.id)
        if not left:
            self._open.pop(call.assignment, None)

    def _reply(self) -> None:
        results, self._results = self._results, {}
        for assignment, its in results.items():
            parts = list(_parts(its))
            for part in parts:
                more = part is not parts[-1] or assignment in self._open
                self._send_reply(assignment, part, more)

    def _send_reply(self, assignment: int, results: list[_Result], more: bool) -> None:
        message = results[0].call.message
        seconds = self._driver.pace(message.outgoing.kind) * len(results)
        reply = pb.Reply(assignment=assignment, more=more, seconds=seconds)
        pieces: list[list[memoryview]] = []
        for result in results:
            numbers = {old: len(pieces) + new for new, old in enumerate(result.views)}
            contents.renumber(result.outcome.content, numbers.__getitem__)
            contents.renumber(result.outcome.state, numbers.__getitem__)
            pieces += [[view] for view in result.views.values()]
            reply.outcomes.append(result.outcome)
        reply.blobs.extend(pb.Blob(nbytes=len(piece)) for [piece] in pieces)
        upload = self._uploads.add(reply, pieces, message.known | results[0].call.known)
        self._replies[reply.upload] = [result.call for result in results]
        try:
            self._uploads.send(upload)
        except Rejected as error:
            self._uploads.settle(reply.upload)
            self._replies.pop(reply.upload)
            failure = pb.Failure(code=pb.Failure.REFUSED, reason=error.message)
            for result in results:
                outcome = pb.Outcome(call=result.call.number, failure=failure)
                self._send_reply(assignment, [_Result(result.call, outcome, {})], more)

    # ------------------------------------------------------------- sums

    def _send_sum(self, message: _Message) -> None:
        """Send what is in our sum, if it is wanted and everything that it waits for is there."""
        fold = message.fold
        if fold is None or not message.asked or message.due:
            return
        if message.untold or not all(call in message.inside for call in fold.calls):
            return  # the server above knows its calls by their replies
        message.asked = False
        if message.inside:
            frame, pieces = fold.take(message.inside)
            message.inside.clear()
            self._uploads.send(self._uploads.add(frame, pieces, message.known))

    # ------------------------------------------------------------- messages

    def _message(self, task: pb.Task, blobs: list[StoredBlob]) -> _Message:
        """The message that the assignment is of, which others may have been of before."""
        frame = pb.Task()
        frame.CopyFrom(task)
        for name in ("assignment", "calls", "blobs"):
            frame.ClearField(name)
        if frame.HasField("fold"):
            frame.fold.ClearField("more")
        used = sorted({entry.blob for entry in contents.references(frame.content)})
        its = [blobs[number] for number in used]
        contents.renumber(frame.content, {old: new for new, old in enumerate(used)}.__getitem__)
        key = (frame.SerializeToString(deterministic=True), *(blob.digest for blob in its))
        message = self._messages.pop(key, None) or self._new_message(frame, its)
        self._messages[key] = message
        return message

    def _new_message(self, frame: pb.Task, blobs: list[StoredBlob]) -> _Message:
        number = next(self._kind_ids)
        fold = RelayFold(frame) if frame.HasField("fold") else None
        nbytes = sum(len(blob.data) for blob in blobs)
        kind = Kind(
            key=number,
            pace=frame.message_type,
            foldable=fold is not None,
            most=1 if frame.timeout_s else max(1, BATCH_BYTES // max(1, nbytes)),
            closes=True,  # it may be so: a relay is not told
        )
        sent = sent_arrays(frame.content, blobs) if fold is not None else {}
        message = _Message(
            Outgoing(frame, blobs, kind, fold, sent), {blob.digest for blob in blobs}, fold
        )
        self._kinds[number] = message
        return message

    def _prune(self) -> None:
        old = list(self._messages.items())[:-_MESSAGES]
        for key, message in old:
            if not message.busy:
                del self._messages[key]
                del self._kinds[message.outgoing.kind.key]


def _state(content: pb.Content, blobs: Sequence[StoredBlob]) -> ClientState:
    """A client's state with only the blobs that it refers to."""
    used = sorted({entry.blob for entry in contents.references(content)})
    own = pb.Content()
    own.CopyFrom(content)
    contents.renumber(own, {old: new for new, old in enumerate(used)}.__getitem__)
    return ClientState(own, [blobs[number] for number in used])


def _admit(answer: Answer) -> str | None:
    """Whether an answer can be sent on: what is in it is for the server above to judge."""
    for content in (answer.outcome.content, answer.outcome.state):
        for entry in contents.references(content):
            if entry.blob >= len(answer.blobs):
                return f"it refers to blob {entry.blob}, which did not come"
    return None


def _copy(outcome: pb.Outcome) -> pb.Outcome:
    copy = pb.Outcome()
    copy.CopyFrom(outcome)
    return copy


def _parts(results: Iterable[_Result]) -> Iterable[list[_Result]]:
    """As replies: one whose client has arrays in its state by itself, the others together."""
    together: list[_Result] = []
    size = 0
    for result in results:
        if result.call.known:
            yield [result]
            continue
        together.append(result)
        size += result.outcome.ByteSize()
        if size > _REPLY_BYTES:
            yield together
            together, size = [], 0
    if together:
        yield together

"""The round driver: performs what the dispatcher decides.

Lives on the server's event loop; nothing here blocks it. The app's threads hand in tasks by
``submit`` and hear of each one exactly once, through the task's ``settled`` callback.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from fedkube.core import stragglers
from fedkube.core.errors import Environment, Rejected
from fedkube.core.tasks import Assign, Dispatcher, Effect, Flush, Kind, Revoke, Settle, TaskState
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, packed
from fedkube.wire.limits import BATCH_CALLS, BATCH_S, HELD_S, LEAST_S, RELAY_HELD_S
from fedkube_server.blobs import StoredBlob
from fedkube_server.calls import Answer, ClientState, NewTask, refusal_text
from fedkube_server.durations import Durations
from fedkube_server.folds import Fold
from fedkube_server.landing import Landed
from fedkube_server.unpacking import Unpacking, unpack, unpackings

log = logging.getLogger("fedkube.server")

# Above this many bytes a reply is checked and summed on a thread: it would hold up the loop.
_INLINE_BYTES = 256 * 1024

# Of so many calls of a kind that have ended it is remembered how long they took.
_ENDED = 64

# How often it is looked whether a call takes long, and whether sums that were asked for still come.
_LOOK_S = 0.5

T = TypeVar("T")


class WorkerSession(Protocol):
    """What the driver needs of a connected worker. ``clients``: it may serve these; None: any.

    ``relays``: it stands for workers of its own.
    """

    name: str
    clients: frozenset[int] | None
    relays: bool

    def give(self, frame: pb.Task, blobs: list[StoredBlob]) -> None:
        """Send the task, and the blobs that the worker lacks."""

    def cancel(self, calls: list[int]) -> None:
        """Tell the worker to drop calls."""

    def flush(self) -> None:
        """Have the worker send the sums that it holds."""

    def silent_s(self) -> float:
        """For how long it has been the worker's turn, and it has said nothing."""


@dataclass(slots=True)
class _Expiry:
    """When the messages that were sent together expire: one timer for all of them."""

    open: int = 0
    timer: asyncio.TimerHandle | None = None

    def settled(self) -> None:
        self.open -= 1
        if not self.open and self.timer is not None:
            self.timer.cancel()


@dataclass(slots=True)
class _Live:
    task: NewTask
    expiry: _Expiry
    failure: pb.Failure | None = None
    answer: Answer | None = None
    state: ClientState = field(default_factory=ClientState)
    given: float = 0.0  # when, by the loop's clock
    together: int = 1  # calls of its assignment
    late: bool = False  # its phase is closed: its update is for whoever takes late ones


@dataclass(slots=True)
class Examined:
    """What a reply's description tells, before its bytes are there.

    ``known``: blobs by digest that the server has. ``dtypes``: of the blobs that will be summed.
    ``wanted``: the blobs that have a use. ``unpackings``: of compressed arrays, which the reply now
    has as blobs that follow its own.
    """

    known: dict[bytes, StoredBlob]
    dtypes: dict[int, np.dtype[np.generic]]
    wanted: set[int]
    unpackings: Sequence[Unpacking] = ()


class Driver:
    """Feeds the dispatcher, and carries out its effects."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        keep_state: Callable[[Answer], ClientState],
    ) -> None:
        self._loop = loop
        self._dispatcher = dispatcher
        dispatcher.batch, dispatcher.least = self._batch, self._least
        self._keep_state = keep_state
        self._live: dict[int, _Live] = {}
        self._states: dict[int, ClientState] = {}
        self._sessions: dict[str, WorkerSession] = {}
        self._bound: dict[str, frozenset[int]] = {}  # of those sessions, the clients of sites
        self._banned: Mapping[int, str] = {}  # clients, and why
        self._durations = Durations()
        self._ended: dict[str, deque[float]] = {}  # seconds from the server and back to it, by pace
        self._looking = False
        # Whether calls that take long are given to a second worker too.
        self.speculates = False
        self._accepting: set[asyncio.Task[Any]] = set()
        self.bytes_up = 0
        self.bytes_down = 0
        self.changed: Callable[[], None] = lambda: None
        # Told which clients have a worker of their own that is connected.
        self.seated: Callable[[set[int]], None] = lambda clients: None

    # ------------------------------------------------------------- from the app's threads

    def submit(self, tasks: list[NewTask]) -> None:
        """Queue the tasks, in this order but for those that are known to take longer."""
        self._loop.call_soon_threadsafe(self._submit, tasks)

    def remember(self, client: int, state: ClientState) -> None:
        """A client's state after a call that is not made again."""
        self._loop.call_soon_threadsafe(self._states.__setitem__, client, state)

    def remembered(self) -> dict[int, ClientState]:
        """The clients' states after all calls that are over."""
        return dict(self._states)

    def withdraw(self, ids: Iterable[int], code: pb.Failure.Code, reason: str) -> None:
        """Stop waiting for tasks; those that are not over are settled with this failure.

        Updates that clients have delivered already, and that are in a worker's sum, still count.
        """
        self._loop.call_soon_threadsafe(self._withdraw, list(ids), code, reason)

    def leave_behind(self, ids: Iterable[int], code: pb.Failure.Code, reason: str) -> None:
        """Close a phase without these: those that clients are at go on, and the rest is withdrawn.

        Their tasks' ``left`` is called with this failure. Their updates go into no sum.
        """
        self._loop.call_soon_threadsafe(self._leave_behind, list(ids), code, reason)

    # ------------------------------------------------------------- from sessions

    def join(self, session: WorkerSession) -> None:
        """A worker has connected."""
        self._sessions[session.name] = session
        if session.clients is not None:
            self._bound[session.name] = session.clients
        self._perform(self._dispatcher.join(session.name, session.clients))
        self._tell_seated()

    def leave(self, session: WorkerSession, reason: str) -> None:
        """A worker is gone for good; its place may have been taken by a newer one."""
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
            self._bound.pop(session.name, None)
            self._perform(self._dispatcher.leave(session.name, reason))
            self._tell_seated()

    def ban(self, clients: Mapping[int, str]) -> None:
        """Wait for nothing that is or will be asked of these clients alone; by client, why.

        Their workers have to be gone. What of theirs has come whole counts.
        """
        self._banned = clients
        self._withdraw_banned([live.task for live in self._live.values()])

    def _withdraw_banned(self, tasks: Iterable[NewTask]) -> None:
        if not self._banned:
            return
        by_reason: dict[str, list[int]] = {}
        for task in tasks:
            if task.client in self._banned:
                by_reason.setdefault(self._banned[task.client], []).append(task.id)
        for reason, ids in by_reason.items():
            self._withdraw(ids, pb.Failure.BANNED, reason)

    def _tell_seated(self) -> None:
        self.seated({each for clients in self._bound.values() for each in clients})
        self.changed()

    def ready(self, session: WorkerSession) -> None:
        """A worker is free."""
        if self._sessions.get(session.name) is session:
            self._perform(self._dispatcher.ready(session.name))

    def widen(self, session: WorkerSession, slots: int) -> None:
        """A relay takes so many assignments at a time."""
        if self._sessions.get(session.name) is session:
            self._perform(self._dispatcher.widen(session.name, slots))
            self._tell_seated()

    def flush(self) -> None:
        """Have the workers send the sums that they hold."""
        self._perform(self._dispatcher.flush())

    def lost(self, session: WorkerSession, calls: Iterable[int]) -> None:
        """A worker is there, and does not have these of its calls any more."""
        if self._sessions.get(session.name) is session:
            reason = "the connection was cut"
            self._perform(self._dispatcher.lose(session.name, calls, reason))

    def examine(self, session: WorkerSession, reply: pb.Reply) -> Examined:
        """Which of a reply's bytes are wanted; Rejected where its description breaks a rule.

        Compressed arrays are described anew, as what they stand for.
        """
        if not reply.blobs:  # as where the worker holds the arrays
            return Examined({}, {}, set())
        known: dict[bytes, StoredBlob] = {}
        dtypes: dict[int, np.dtype[np.generic]] = {}
        wanted: set[int] = set()
        found: list[Unpacking] = []
        for outcome in reply.outcomes:
            if not self._runs(session, reply.assignment, outcome.call):
                continue
            live = self._live[outcome.call]
            state = self._state_before(live)
            known |= {blob.digest: blob for blob in live.task.message.blobs}
            known |= {blob.digest: blob for blob in state.blobs} if state else {}
            message = live.task.message
            fold = message.fold if not outcome.held and outcome.HasField("content") else None
            # Refused when it is taken; its bytes need not come.
            if packed.refusal(message.frame, outcome, reply.blobs) is not None:
                continue
            if fold is not None and fold.refusal(outcome, reply.blobs) is not None:
                continue
            for content in (outcome.content, outcome.state):
                wanted |= {entry.blob for entry in contents.references(content)}
            found += unpackings(message, outcome, len(reply.blobs) + len(found))
            if fold is not None:
                dtypes |= fold.dtypes(outcome)
        return Examined(known, dtypes, wanted, found)

    def examine_sum(self, session: WorkerSession, update: pb.Sum) -> Examined:
        """The same of a worker's sum."""
        fold = self._fold_of(session, update)
        if fold is None:
            return Examined({}, {}, set())
        fold.check_sum(update)
        blobs = self._live[update.calls[0]].task.message.blobs
        dtypes = fold.sum_dtypes(update)
        wanted = {each.blob for each in update.tensors if each.raw or each.blocks}
        return Examined({blob.digest: blob for blob in blobs}, dtypes, wanted)

    async def answered(
        self, session: WorkerSession, reply: pb.Reply, landed: Sequence[Landed]
    ) -> list[pb.Refusal]:
        """A reply is there, whole. Returns the calls that did not count, and why."""
        if reply.outcomes and reply.seconds > 0:
            by_pace: dict[str, list[int]] = {}
            for each in reply.outcomes:
                if (live := self._live.get(each.call)) is not None:
                    by_pace.setdefault(live.task.message.kind.pace, []).append(live.task.client)
            for pace, clients in by_pace.items():
                self._durations.note(pace, clients, reply.seconds / len(reply.outcomes))
        return await self._take(session, reply, landed)

    async def summed(
        self, session: WorkerSession, update: pb.Sum, landed: Sequence[Landed]
    ) -> list[pb.Refusal]:
        """A worker's sum is there, whole. Returns the calls that did not count, and why."""
        return await self._take_sum(session, update, landed)

    async def to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Once begun, an update is counted to the end, even if its stream is cut meanwhile."""
        task = asyncio.ensure_future(work)
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        return await asyncio.shield(task)

    # ------------------------------------------------------------- what is so now

    @property
    def running(self) -> int:
        """Clients that are being served."""
        return self._dispatcher.running

    def pace(self, kind: Kind) -> float:
        """Seconds that a call of this kind took last; 0 where none has ended."""
        return self._durations.last(kind.pace) or 0.0

    @property
    def workers(self) -> int:
        """Workers that are connected."""
        return self._dispatcher.sessions

    @property
    def relays(self) -> int:
        """How many of them are relays."""
        return sum(session.relays for session in self._sessions.values())

    # ------------------------------------------------------------- replies

    async def _take(
        self, session: WorkerSession, reply: pb.Reply, landed: Sequence[Landed]
    ) -> list[pb.Refusal]:
        refused = []
        digests = [blob.digest for blob in reply.blobs]
        for outcome in reply.outcomes:
            reason = await self._take_one(session, reply, outcome, landed, digests)
            if reason:
                refused.append(pb.Refusal(call=outcome.call, reason=reason))
        return refused

    async def _take_one(
        self,
        session: WorkerSession,
        reply: pb.Reply,
        outcome: pb.Outcome,
        landed: Sequence[Landed],
        digests: Sequence[bytes],
    ) -> str:
        if outcome.HasField("failure") and self._holds(session, outcome.call):
            self._failed(session, self._live[outcome.call], outcome.failure)
            return ""
        if not self._runs(session, reply.assignment, outcome.call):
            return _NOBODY
        live = self._live[outcome.call]
        match outcome.WhichOneof("kind"):
            case "failure":
                self._failed(session, live, outcome.failure)
                return ""
            case None:
                raise Rejected("a reply with neither content nor failure")
        self._note_ended(live)
        self._perform(self._dispatcher.claim(session.name, outcome.call))
        answer = Answer(outcome, _Views(landed), digests=digests)
        nbytes = 0
        if landed:
            blobs = {entry.blob for entry in contents.references(outcome.content)}
            nbytes = sum(landed[blob].nbytes for blob in blobs if blob < len(landed))
        reason = await self._checked(live, answer, reply, landed, nbytes)
        if not self._runs(session, reply.assignment, outcome.call):
            return _NOBODY
        if reason:
            return self._refuse(live, reason)
        fold = live.task.message.fold
        live.answer = answer
        if outcome.held:
            self._perform(self._dispatcher.hold(outcome.call))
            live.task.held(answer)
            return ""
        self._remember(live)
        # From here on it counts: nobody can lose or withdraw it.
        self._perform(self._dispatcher.answer(outcome.call))
        if fold is not None and not live.late:
            await _off_loop(nbytes, fold.add, outcome, reply.blobs, landed, live.task.message.sent)
        live.task.settled(answer)
        return ""

    async def _checked(
        self,
        live: _Live,
        answer: Answer,
        reply: pb.Reply,
        landed: Sequence[Landed],
        nbytes: int,
    ) -> str | None:
        """Why the reply may not count, or None; the client's new state is put by."""
        fold = live.task.message.fold
        outcome = answer.outcome
        try:
            if landed:  # without bytes, nothing can be compressed
                reason = packed.refusal(live.task.message.frame, outcome, reply.blobs)
                if reason is not None:
                    return reason
            live.state = self._keep_state(answer)
            if outcome.held and fold is None:
                return "its arrays were held back, and they are needed"
            if fold is not None:
                reason = fold.refusal(outcome, reply.blobs)
                if reason is None and not outcome.held:
                    reason = await _off_loop(nbytes, fold.unfit, outcome, landed)
                return reason or live.task.admit(answer)
            await _off_loop(nbytes, unpack, outcome, landed)
            return await _off_loop(nbytes, live.task.admit, answer)
        except Rejected as error:
            return error.message
        except Environment:
            raise  # ours: there is no room to decompress it
        except Exception as error:
            # Whatever the client sent, it must not cost the worker that carried it.
            log.exception("a reply could not be checked")
            return f"it could not be checked: {type(error).__name__}: {error}"

    async def _take_sum(
        self, session: WorkerSession, update: pb.Sum, landed: Sequence[Landed]
    ) -> list[pb.Refusal]:
        fold = self._fold_of(session, update)
        if fold is None:
            # Of what it holds, some calls may still be waited for: they have to be made again.
            self.lost(session, update.calls)
            return [pb.Refusal(call=call, reason=_NOBODY) for call in update.calls]
        lives = [self._live[call] for call in update.calls]
        answers = [live.answer for live in lives if live.answer is not None]
        nbytes = sum(each.nbytes for each in landed)
        reason = await _off_loop(nbytes, fold.sum_unfit, update, answers[0].outcome, landed)
        if not all(self._holds(session, call) for call in update.calls):
            self.lost(session, update.calls)
            return [pb.Refusal(call=call, reason=_NOBODY) for call in update.calls]
        if reason:
            return [
                pb.Refusal(call=live.task.id, reason=self._refuse(live, reason)) for live in lives
            ]
        for live in lives:
            self._remember(live)
            self._perform(self._dispatcher.answer(live.task.id))
        outcomes = [answer.outcome for answer in answers]
        sent = lives[0].task.message.sent
        await _off_loop(nbytes, fold.add_sum, update, outcomes, landed, sent)
        for live, answer in zip(lives, answers, strict=True):
            live.task.settled(answer)
        return []

    def _state_before(self, live: _Live) -> ClientState | None:
        """What the client kept from its last call, if that came with the call or is kept here."""
        return live.task.state or self._states.get(live.task.client)

    def _remember(self, live: _Live) -> None:
        if live.task.state is None:
            self._states[live.task.client] = live.state

    def _failed(self, session: WorkerSession, live: _Live, failure: pb.Failure) -> None:
        if self._dispatcher.forfeit(session.name, live.task.id):
            return
        if failure.code == pb.Failure.NOT_SERVED:
            self._perform(self._dispatcher.postpone(live.task.id))
            return
        live.failure = failure
        retry = failure.code == pb.Failure.KILLED
        self._perform(self._dispatcher.fail(live.task.id, failure.reason, retry=retry))

    def _refuse(self, live: _Live, reason: str) -> str:
        text = refusal_text(reason)
        live.failure = pb.Failure(code=pb.Failure.REFUSED, reason=text)
        self._perform(self._dispatcher.fail(live.task.id, text, retry=False))
        return text

    # ------------------------------------------------------------- inside

    def _fold_of(self, session: WorkerSession, update: pb.Sum) -> Fold | None:
        """Where a sum belongs, or None if it is not expected any more."""
        calls = list(update.calls)
        # One that is in it twice was made twice by this worker: its first reply came too late to
        # count, and stayed in the sum.
        twice = len(set(calls)) != len(calls)
        if not calls or twice or not all(self._holds(session, call) for call in calls):
            return None
        messages = {id(self._live[call].task.message) for call in calls}
        fold = self._live[calls[0]].task.message.fold
        if len(messages) != 1 or fold is None:
            raise Rejected("a sum of calls that do not belong together")
        return fold

    def _runs(self, session: WorkerSession, assignment: int, call: int) -> bool:
        return self._sessions.get(session.name) is session and self._dispatcher.holds(
            session.name, assignment, call
        )

    def _holds(self, session: WorkerSession, call: int) -> bool:
        return self._sessions.get(session.name) is session and self._dispatcher.held(
            session.name, call
        )

    def _batch(self, kind: Kind) -> int:
        """How many calls of a kind are worth one assignment."""
        pace = self._durations.last(kind.pace)
        if pace is None:
            return 1
        return max(1, min(kind.most, BATCH_CALLS, math.floor(BATCH_S / max(pace, 1e-6))))

    def _least(self, kind: Kind) -> int:
        """How many calls of a kind are not worth two assignments."""
        pace = self._durations.last(kind.pace)
        if pace is None or kind.closes:
            return 1
        return max(1, math.floor(LEAST_S / max(pace, 1e-6)))

    def _submit(self, tasks: list[NewTask]) -> None:
        together: dict[float, list[int]] = {}
        expiries: dict[float | None, _Expiry] = {}
        tasks = self._durations.longest_first(
            tasks, lambda task: (task.message.kind.pace, task.client)
        )
        for task in tasks:
            # A timer for each of thousands of tasks would cost more than it tells.
            seconds = None if task.expires_in_s is None else math.ceil(task.expires_in_s * 10) / 10
            expiry = expiries.setdefault(seconds, _Expiry())
            expiry.open += 1
            self._live[task.id] = _Live(task, expiry)
            if seconds is not None:
                together.setdefault(seconds, []).append(task.id)
        for seconds, ids in together.items():
            expiries[seconds].timer = self._loop.call_later(
                seconds, self._withdraw, ids, pb.Failure.EXPIRED, _EXPIRED
            )
        if self.speculates and not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_S, self._look_for_slow)
        self._perform(
            self._dispatcher.submit((task.id, task.client, task.message.kind) for task in tasks)
        )
        self._withdraw_banned(tasks)

    def _note_ended(self, live: _Live) -> None:
        """How long it took: what others of its kind are measured by."""
        if self.speculates:
            took = self._ended.setdefault(live.task.message.kind.pace, deque(maxlen=_ENDED))
            took.append(self._takes(live))

    def _takes(self, live: _Live) -> float:
        """Seconds that a call that was given out has taken; its assignment's are served in turn."""
        return (self._loop.time() - live.given) / live.together

    def _look_for_slow(self) -> None:
        """Give calls that take long to a second worker, if one is idle."""
        running: dict[str, dict[int, float]] = {}
        for number, live in self._live.items():
            if live.given:
                kind = live.task.message.kind.pace
                running.setdefault(kind, {})[number] = self._takes(live)
        for kind, taking in running.items():
            self._perform(
                self._dispatcher.race(stragglers.slow(taking, list(self._ended.get(kind, ()))))
            )
        self._looking = bool(self._live)
        if self._looking:
            self._loop.call_later(_LOOK_S, self._look_for_slow)

    def _withdraw(self, ids: list[int], code: pb.Failure.Code, reason: str) -> None:
        live = [self._live[task_id] for task_id in ids if task_id in self._live]
        for each in live:
            each.failure = pb.Failure(code=code, reason=reason)
        self._perform(self._dispatcher.withdraw([each.task.id for each in live], reason))
        self._perform(self._dispatcher.flush())
        self._await_held([each.task.id for each in live], code, reason)

    def _leave_behind(self, ids: list[int], code: pb.Failure.Code, reason: str) -> None:
        live = [self._live[task_id] for task_id in ids if task_id in self._live]
        waiting = [each.task.id for each in live if self._dispatcher.waits(each.task.id)]
        for each in live:
            if not self._dispatcher.waits(each.task.id):
                each.late = True
                each.task.left(pb.Failure(code=code, reason=reason))
        self._withdraw(waiting, code, reason)

    def _await_held(self, ids: list[int], code: pb.Failure.Code, reason: str) -> None:
        if held := [each for each in ids if each in self._live]:
            self._loop.call_later(_LOOK_S, self._look_at_held, held, code, reason)

    def _look_at_held(self, ids: list[int], code: pb.Failure.Code, reason: str) -> None:
        """Give up updates in the sums of workers that do not send them."""
        for each in ids:
            holder = self._dispatcher.holder(each)
            if holder is not None and self._silent(self._sessions[holder]):
                self._live[each].failure = pb.Failure(code=code, reason=reason)
                self._perform(self._dispatcher.fail(each, reason, retry=False))
        # Those that were lost meanwhile would have to be made again, and nobody waits for that.
        lost = [each for each in ids if each in self._live and not self._dispatcher.holder(each)]
        if lost:
            self._withdraw(lost, code, reason)
        self._await_held(ids, code, reason)

    @staticmethod
    def _silent(session: WorkerSession) -> bool:
        return session.silent_s() >= (RELAY_HELD_S if session.relays else HELD_S)

    def _perform(self, effects: Sequence[Effect]) -> None:
        if not effects:
            return
        todo = deque(effects)
        revoked: dict[str, list[int]] = {}
        while todo:
            effect = todo.popleft()
            match effect:
                case Assign():
                    todo += self._give(effect)
                case Revoke(session, task_id):
                    revoked.setdefault(session, []).append(task_id)
                case Flush(session):
                    self._sessions[session].flush()
                case Settle():
                    self._settle(effect)
        for session, calls in revoked.items():
            if session in self._sessions:
                self._sessions[session].cancel(calls)
        self.changed()

    def _give(self, assign: Assign) -> list[Effect]:
        """Send tasks to a worker; where they are too large to be sent, they have failed."""
        lives = [self._live[task_id] for task_id in assign.tasks]
        message = lives[0].task.message
        frame = pb.Task()
        frame.CopyFrom(message.frame)
        if not assign.hold:
            frame.ClearField("fold")
        elif frame.HasField("fold"):
            frame.fold.more = self._dispatcher.queued > 0
        frame.assignment = assign.assignment
        blobs = list(message.blobs)
        for live in lives:
            call = frame.calls.add()
            call.CopyFrom(live.task.call)
            state = self._state_before(live)
            if state is not None and state.content.records:
                call.state.CopyFrom(state.content)
                # The states' blobs follow the message's.
                contents.renumber(call.state, len(blobs).__add__)
                blobs += state.blobs
        try:
            self._sessions[assign.session].give(frame, blobs)
        except Rejected as error:
            reason = f"the message cannot be sent: {error.message}"
            effects: list[Effect] = []
            for live in lives:
                live.failure = pb.Failure(code=pb.Failure.REFUSED, reason=reason)
                if not self._dispatcher.forfeit(assign.session, live.task.id):
                    effects += self._dispatcher.fail(live.task.id, reason, retry=False)
            return effects + self._dispatcher.ready(assign.session)
        for live in lives:
            live.given, live.together = self._loop.time(), len(lives)
        return []

    def _settle(self, effect: Settle) -> None:
        live = self._live.pop(effect.task)
        live.expiry.settled()
        if effect.state is TaskState.ANSWERED:
            return  # told when its update has been counted
        if live.failure is not None:
            # The dispatcher's reason also says how often it was tried.
            live.failure.reason = effect.reason
            live.task.settled(live.failure)
        else:
            live.task.settled(pb.Failure(code=pb.Failure.LOST, reason=effect.reason))


class _Views(Sequence[memoryview]):
    """The blobs of a reply, looked at only where somebody needs them."""

    def __init__(self, landed: Sequence[Landed]) -> None:
        self._landed = landed

    def __len__(self) -> int:
        return len(self._landed)

    def __getitem__(self, index: Any) -> Any:
        return self._landed[index].view()


async def _off_loop(nbytes: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do the work here if it is little, and on a thread if it is much."""
    if nbytes <= _INLINE_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


_EXPIRED = "the message's time to live ran out before a reply came"
_NOBODY = "nobody waits for this reply any more"

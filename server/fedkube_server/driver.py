"""The round driver: performs what the dispatcher decides.

Lives on the server's event loop; nothing here blocks it. The app's threads hand in tasks by
``submit`` and hear of each one exactly once, through the task's ``settled`` callback.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedkube.core.errors import Rejected
from fedkube.core.tasks import Assign, Dispatcher, Effect, Revoke, Settle, TaskState
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents
from fedkube_server.blobs import StoredBlob

log = logging.getLogger("fedkube.server")

# Above this many bytes a reply is checked on a thread: scanning it would hold up the loop.
_CHECK_INLINE_BYTES = 256 * 1024


@dataclass(slots=True)
class Answer:
    """A reply with its blobs' bytes. ``records``: what admission decoded it to; Flower's type."""

    reply: pb.Reply
    blobs: list[memoryview]
    records: Any = None


Outcome = Answer | pb.Failure
Admission = Callable[[Answer], str | None]


@dataclass(slots=True)
class NewTask:
    """A message for one client.

    ``frame`` lacks what only the driver knows: attempt, state and the blobs' list. ``admit``
    decodes a reply and says why it must not count, or None. ``expires_in_s`` is the message's time
    to live.
    """

    id: int
    client: int
    frame: pb.Task
    blobs: list[StoredBlob]
    admit: Admission
    settled: Callable[[Outcome], None]
    expires_in_s: float


class WorkerSession(Protocol):
    """What the driver needs of a connected worker."""

    name: str

    def give(self, frame: pb.Task, blobs: list[StoredBlob]) -> None:
        """Send the task, and the blobs that the worker lacks."""

    def cancel(self, task: int, attempt: int) -> None:
        """Tell the worker to drop the task."""


@dataclass(slots=True)
class ClientState:
    """What a logical client keeps between its calls: its ``Context.state``."""

    content: pb.Content = field(default_factory=pb.Content)
    blobs: list[StoredBlob] = field(default_factory=list)


@dataclass(slots=True)
class _Live:
    task: NewTask
    expiry: asyncio.TimerHandle
    failure: pb.Failure | None = None
    answer: Answer | None = None


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
        self._keep_state = keep_state
        self._live: dict[int, _Live] = {}
        self._states: dict[int, ClientState] = {}
        self._sessions: dict[str, WorkerSession] = {}
        self.bytes_up = 0
        self.bytes_down = 0
        self.changed: Callable[[], None] = lambda: None

    # ------------------------------------------------------------- from the app's threads

    def submit(self, tasks: list[NewTask]) -> None:
        """Queue the tasks, in this order."""
        self._loop.call_soon_threadsafe(self._submit, tasks)

    def withdraw(self, ids: Iterable[int], code: pb.Failure.Code, reason: str) -> None:
        """Stop waiting for tasks; those that are not over are settled with this failure."""
        self._loop.call_soon_threadsafe(self._withdraw, list(ids), code, reason)

    # ------------------------------------------------------------- from sessions

    def join(self, session: WorkerSession) -> None:
        """A worker has connected."""
        self._sessions[session.name] = session
        self._perform(self._dispatcher.join(session.name))
        self.changed()

    def leave(self, session: WorkerSession, reason: str) -> None:
        """A worker's session has ended; its place may have been taken by a newer one."""
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
            self._perform(self._dispatcher.leave(session.name, reason))
            self.changed()

    def ready(self, session: WorkerSession) -> None:
        """A worker is free."""
        if self._sessions.get(session.name) is session:
            self._perform(self._dispatcher.ready(session.name))

    def blobs_of(self, session: WorkerSession, reply: pb.Reply) -> dict[bytes, StoredBlob] | None:
        """The task's blobs by digest, or None if a reply from there would not count."""
        if not self._holds(session, reply):
            return None
        live = self._live[reply.task]
        state = self._states.get(live.task.client)
        known = [*live.task.blobs, *(state.blobs if state else [])]
        return {blob.digest: blob for blob in known}

    async def answered(self, session: WorkerSession, answer: Answer) -> str:
        """A reply is there, whole. Returns why it did not count, or an empty string."""
        reply = answer.reply
        if not self._holds(session, reply):
            return "nobody waits for this reply any more"
        live = self._live[reply.task]
        if reply.WhichOneof("outcome") is None:
            raise Rejected("a reply with neither content nor failure")
        if reply.HasField("failure"):
            live.failure = reply.failure
            retry = reply.failure.code == pb.Failure.KILLED
            self._fail(session, reply, reply.failure.reason, retry=retry)
            return ""
        refused, state = await self._checked(live.task, answer)
        if not self._holds(session, reply):
            return "nobody waits for this reply any more"
        if refused:
            reason = refusal_text(refused)
            live.failure = pb.Failure(code=pb.Failure.REFUSED, reason=reason)
            self._fail(session, reply, reason, retry=False)
            return reason
        live.answer = answer
        self._states[live.task.client] = state
        self._perform(self._dispatcher.answer(session.name, reply.task, reply.attempt))
        return ""

    # ------------------------------------------------------------- what is so now

    @property
    def running(self) -> int:
        """Clients that are being served."""
        return self._dispatcher.running

    @property
    def workers(self) -> int:
        """Workers that are connected."""
        return self._dispatcher.sessions

    # ------------------------------------------------------------- inside

    def _holds(self, session: WorkerSession, reply: pb.Reply) -> bool:
        return self._sessions.get(session.name) is session and self._dispatcher.holds(
            session.name, reply.task, reply.attempt
        )

    def _fail(self, session: WorkerSession, reply: pb.Reply, reason: str, *, retry: bool) -> None:
        self._perform(
            self._dispatcher.fail(session.name, reply.task, reply.attempt, reason, retry=retry)
        )

    async def _checked(self, task: NewTask, answer: Answer) -> tuple[str | None, ClientState]:
        """Why the reply may not count, or None; and the client's new state."""
        state = ClientState()
        try:
            state = self._keep_state(answer)
            if sum(map(len, answer.blobs)) <= _CHECK_INLINE_BYTES:
                return task.admit(answer), state
            return await asyncio.to_thread(task.admit, answer), state
        except Rejected as error:
            return error.message, state
        except Exception as error:
            # Whatever the client sent, it must not cost the worker that carried it.
            log.exception("a reply could not be checked")
            return f"it could not be checked: {type(error).__name__}: {error}", state

    def _submit(self, tasks: list[NewTask]) -> None:
        for task in tasks:
            expiry = self._loop.call_later(
                task.expires_in_s, self._withdraw, [task.id], pb.Failure.EXPIRED, _EXPIRED
            )
            self._live[task.id] = _Live(task, expiry)
        self._perform(self._dispatcher.submit((task.id, task.client) for task in tasks))

    def _withdraw(self, ids: list[int], code: pb.Failure.Code, reason: str) -> None:
        for task_id in ids:
            if task_id in self._live:
                self._live[task_id].failure = pb.Failure(code=code, reason=reason)
        self._perform(self._dispatcher.withdraw(ids, reason))

    def _perform(self, effects: list[Effect]) -> None:
        todo = deque(effects)
        while todo:
            effect = todo.popleft()
            match effect:
                case Assign(session, task_id, attempt):
                    todo += self._give(session, task_id, attempt)
                case Revoke(session, task_id, attempt):
                    if session in self._sessions:
                        self._sessions[session].cancel(task_id, attempt)
                case Settle():
                    self._settle(effect)
        if effects:
            self.changed()

    def _give(self, session: str, task_id: int, attempt: int) -> list[Effect]:
        """Send a task to a worker; where it is too large to be sent, it has failed."""
        live = self._live[task_id]
        frame = pb.Task()
        frame.CopyFrom(live.task.frame)
        frame.attempt = attempt
        blobs = list(live.task.blobs)
        state = self._states.get(live.task.client)
        if state is not None:
            frame.state.CopyFrom(state.content)
            # The state's blobs follow the message's.
            contents.renumber(frame.state, len(blobs).__add__)
            blobs += state.blobs
        try:
            self._sessions[session].give(frame, blobs)
        except Rejected as error:
            reason = f"the message cannot be sent: {error.message}"
            live.failure = pb.Failure(code=pb.Failure.REFUSED, reason=reason)
            failed = self._dispatcher.fail(session, task_id, attempt, reason, retry=False)
            return failed + self._dispatcher.ready(session)
        return []

    def _settle(self, effect: Settle) -> None:
        live = self._live.pop(effect.task)
        live.expiry.cancel()
        if effect.state is TaskState.ANSWERED:
            assert live.answer is not None
            live.task.settled(live.answer)
        elif live.failure is not None:
            # The dispatcher's reason also says how often it was tried.
            live.failure.reason = effect.reason
            live.task.settled(live.failure)
        else:
            live.task.settled(pb.Failure(code=pb.Failure.LOST, reason=effect.reason))


def refusal_text(reason: str) -> str:
    """How a refused update is spoken of, wherever it was refused."""
    return f"the update was refused: {reason}"


_EXPIRED = "the message's time to live ran out before a reply came"

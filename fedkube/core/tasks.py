"""How a round's tasks reach workers: a table of states and a pure machine around it.

A *task* is one message for one logical client. Workers pull: a free worker is given the next task
whose client is not being served already. The machine takes events and returns effects; a driver
performs them. Each task settles exactly once, whatever is lost, late or repeated:

* a reply counts only from the session and attempt that hold the task (*fencing*);
* a lost worker's tasks go back to the front of the queue, until ``max_attempts`` is used up;
* a withdrawn task is settled at once, and what its worker still sends is ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class TaskState(StrEnum):
    """Where a task is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    ANSWERED = "answered"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


class TaskEvent(StrEnum):
    """What moves a task from state to state."""

    ASSIGN = "assign"
    ANSWER = "answer"
    FAIL = "fail"
    LOSE = "lose"
    GIVE_UP = "give up"
    WITHDRAW = "withdraw"


TABLE: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.QUEUED, TaskEvent.ASSIGN): TaskState.RUNNING,
    (TaskState.QUEUED, TaskEvent.WITHDRAW): TaskState.WITHDRAWN,
    (TaskState.RUNNING, TaskEvent.ANSWER): TaskState.ANSWERED,
    (TaskState.RUNNING, TaskEvent.FAIL): TaskState.FAILED,
    (TaskState.RUNNING, TaskEvent.LOSE): TaskState.QUEUED,
    (TaskState.RUNNING, TaskEvent.GIVE_UP): TaskState.FAILED,
    (TaskState.RUNNING, TaskEvent.WITHDRAW): TaskState.WITHDRAWN,
}

Session = str
TaskId = int
Client = int


@dataclass(frozen=True, slots=True)
class Assign:
    """Give the task to the session's worker."""

    session: Session
    task: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell the worker to drop the task; it will say when it is free."""

    session: Session
    task: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class Settle:
    """The task is over; nothing will be said of it again."""

    task: TaskId
    state: TaskState
    reason: str = ""


Effect = Assign | Revoke | Settle


@dataclass(slots=True)
class _Task:
    id: TaskId
    client: Client
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    session: Session | None = None

    def move(self, event: TaskEvent) -> None:
        try:
            self.state = TABLE[self.state, event]
        except KeyError:
            raise LookupError(f"{event} does not fit {self!r}") from None


@dataclass(slots=True)
class Dispatcher:
    """The machine. Not thread-safe: one thread (the server's event loop) feeds it.

    ``max_attempts``: how often a task may be given out before it is called failed.
    """

    max_attempts: int = 3
    _tasks: dict[TaskId, _Task] = field(default_factory=dict)
    _queue: deque[TaskId] = field(default_factory=deque)
    _free: deque[Session] = field(default_factory=deque)
    _sessions: set[Session] = field(default_factory=set)
    _held: dict[Session, TaskId] = field(default_factory=dict)
    _busy_clients: set[Client] = field(default_factory=set)

    # ------------------------------------------------------------- events

    def submit(self, tasks: Iterable[tuple[TaskId, Client]]) -> list[Effect]:
        """New tasks, in the order in which they should be served."""
        for task_id, client in tasks:
            if task_id in self._tasks:
                raise LookupError(f"task {task_id} was submitted before")
            self._tasks[task_id] = _Task(task_id, client)
            self._queue.append(task_id)
        return self._dispatch()

    def join(self, session: Session) -> list[Effect]:
        """A worker has connected; it is given nothing until it is ready."""
        self._sessions.add(session)
        return []

    def ready(self, session: Session) -> list[Effect]:
        """The worker is free."""
        if session not in self._sessions or session in self._free:
            return []
        effects: list[Effect] = []
        # A worker that is free holds nothing: what it was given and never answered is lost.
        if session in self._held:
            effects += self._lose(self._tasks[self._held[session]], "the worker dropped it")
        self._free.append(session)
        return effects + self._dispatch()

    def leave(self, session: Session, reason: str) -> list[Effect]:
        """The worker's session has ended, in whatever way."""
        if session not in self._sessions:
            return []
        self._sessions.discard(session)
        if session in self._free:
            self._free.remove(session)
        effects: list[Effect] = []
        if session in self._held:
            effects += self._lose(self._tasks[self._held[session]], reason)
        return effects + self._dispatch()

    def holds(self, session: Session, task_id: TaskId, attempt: int) -> bool:
        """Whether a reply from there would count now."""
        task = self._tasks.get(task_id)
        return (
            task is not None
            and task.state is TaskState.RUNNING
            and task.session == session
            and task.attempt == attempt
        )

    def answer(self, session: Session, task_id: TaskId, attempt: int) -> list[Effect]:
        """A reply has arrived whole and was accepted."""
        return self._finish(session, task_id, attempt, TaskEvent.ANSWER, "")

    def fail(
        self, session: Session, task_id: TaskId, attempt: int, reason: str, *, retry: bool
    ) -> list[Effect]:
        """The client could not be served.

        ``retry``: another try may end otherwise (its process was killed), so give it one.
        """
        if not self.holds(session, task_id, attempt):
            return []
        if retry:
            return self._lose(self._tasks[task_id], reason) + self._dispatch()
        return self._finish(session, task_id, attempt, TaskEvent.FAIL, reason)

    def withdraw(self, task_ids: Iterable[TaskId], reason: str) -> list[Effect]:
        """Nobody waits for these any more."""
        effects: list[Effect] = []
        gone = {task_id for task_id in task_ids if task_id in self._tasks}
        self._queue = deque(task_id for task_id in self._queue if task_id not in gone)
        for task_id in sorted(gone):
            task = self._tasks[task_id]
            if task.session is not None:
                effects.append(Revoke(task.session, task_id, task.attempt))
            task.move(TaskEvent.WITHDRAW)
            effects.append(self._settle(task, reason))
        return effects + self._dispatch()

    # ------------------------------------------------------------- what is so now

    @property
    def queued(self) -> int:
        """Tasks that wait for a worker."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Tasks that a worker has."""
        return len(self._tasks) - len(self._queue)

    @property
    def sessions(self) -> int:
        """Workers that are connected."""
        return len(self._sessions)

    def check(self) -> None:
        """Raise AssertionError when what must always hold does not; for tests."""
        held = [t for t in self._tasks.values() if t.state is TaskState.RUNNING]
        assert all(t.session in self._sessions for t in held)
        assert self._held == {t.session: t.id for t in held}
        assert len(self._held) == len(held), "a worker holds two tasks"
        assert {t.client for t in held} == self._busy_clients
        assert len({t.client for t in held}) == len(held), "a client is served twice at once"
        assert not set(self._free) & {t.session for t in held}
        assert {t.id for t in self._tasks.values() if t.state is TaskState.QUEUED} == set(
            self._queue
        )
        assert len(set(self._queue)) == len(self._queue)

    # ------------------------------------------------------------- inside

    def _release(self, task: _Task) -> None:
        if task.session is not None:
            self._busy_clients.discard(task.client)
            self._held.pop(task.session, None)
            task.session = None

    def _settle(self, task: _Task, reason: str) -> Settle:
        self._release(task)
        del self._tasks[task.id]
        return Settle(task.id, task.state, reason)

    def _finish(
        self, session: Session, task_id: TaskId, attempt: int, event: TaskEvent, reason: str
    ) -> list[Effect]:
        if not self.holds(session, task_id, attempt):
            return []
        task = self._tasks[task_id]
        task.move(event)
        return [self._settle(task, reason), *self._dispatch()]

    def _lose(self, task: _Task, reason: str) -> list[Effect]:
        if task.attempt >= self.max_attempts:
            task.move(TaskEvent.GIVE_UP)
            tries = f"{task.attempt} tries" if task.attempt != 1 else "1 try"
            return [self._settle(task, f"{reason} (given up after {tries})")]
        task.move(TaskEvent.LOSE)
        self._release(task)
        self._queue.appendleft(task.id)
        return []

    def _dispatch(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._free:
            task = self._next()
            if task is None:
                break
            session = self._free.popleft()
            task.move(TaskEvent.ASSIGN)
            task.attempt += 1
            task.session = session
            self._held[session] = task.id
            self._busy_clients.add(task.client)
            effects.append(Assign(session, task.id, task.attempt))
        return effects

    def _next(self) -> _Task | None:
        """The first queued task whose client is not being served: its state must not fork."""
        for index, task_id in enumerate(self._queue):
            task = self._tasks[task_id]
            if task.client not in self._busy_clients:
                del self._queue[index]
                return task
        return None

"""How a round's tasks reach workers: a table of states and a pure machine around it.

A *task* is one message for one logical client. Workers pull: a free worker is given the next tasks
whose clients are not being served already, several at once where they are short (an *assignment*).
The machine takes events and returns effects; a driver performs them. Each task settles exactly
once, whatever is lost, late or repeated:

* a reply counts only from the session and assignment that hold the task (*fencing*);
* an update may stay with its worker, in a sum; it counts when the sum has come (*held*);
* a lost worker's tasks go back to the front of the queue, until ``max_attempts`` is used up;
* a task that takes long may be given to a second worker too (*a race*): the first answer counts,
  and a worker that fails or is lost in a race leaves it to the other;
* a withdrawn task is settled at once, and what its worker still sends is ignored;
* a worker that is bound to clients (a site's, whose data lie there) is given theirs alone;
* a relay, which has workers of its own, is given as many assignments at a time as it says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum


class TaskState(StrEnum):
    """Where a task is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    HELD = "held"
    ANSWERED = "answered"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


class TaskEvent(StrEnum):
    """What moves a task from state to state."""

    ASSIGN = "assign"
    HOLD = "hold"
    ANSWER = "answer"
    FAIL = "fail"
    LOSE = "lose"
    GIVE_UP = "give up"
    WITHDRAW = "withdraw"


TABLE: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.QUEUED, TaskEvent.ASSIGN): TaskState.RUNNING,
    (TaskState.QUEUED, TaskEvent.WITHDRAW): TaskState.WITHDRAWN,
    (TaskState.RUNNING, TaskEvent.HOLD): TaskState.HELD,
    (TaskState.RUNNING, TaskEvent.ANSWER): TaskState.ANSWERED,
    (TaskState.RUNNING, TaskEvent.FAIL): TaskState.FAILED,
    (TaskState.RUNNING, TaskEvent.LOSE): TaskState.QUEUED,
    (TaskState.RUNNING, TaskEvent.GIVE_UP): TaskState.FAILED,
    (TaskState.RUNNING, TaskEvent.WITHDRAW): TaskState.WITHDRAWN,
    (TaskState.HELD, TaskEvent.ANSWER): TaskState.ANSWERED,
    (TaskState.HELD, TaskEvent.FAIL): TaskState.FAILED,
    (TaskState.HELD, TaskEvent.LOSE): TaskState.QUEUED,
}

Session = str
TaskId = int
Client = int


@dataclass(frozen=True, slots=True)
class Kind:
    """What tasks have in common that may be one assignment: the same message.

    ``key``: of the message. ``pace``: messages of one pace take about as long. ``foldable``: the
    updates may be summed by the worker. ``most``: tasks that one assignment may have. ``closes``:
    it may be that not all are waited for, so that one that hangs should hold up few others.
    """

    key: Hashable
    pace: str = ""
    foldable: bool = False
    most: int = 1
    closes: bool = False


@dataclass(frozen=True, slots=True)
class Assign:
    """Give the tasks to the session's worker; ``hold``: it is to sum their updates and wait."""

    session: Session
    assignment: int
    tasks: tuple[TaskId, ...]
    hold: bool


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell the worker to drop the task; it will say when it is free."""

    session: Session
    task: TaskId


@dataclass(frozen=True, slots=True)
class Flush:
    """Have the worker send the sums that it holds."""

    session: Session


@dataclass(frozen=True, slots=True)
class Settle:
    """The task is over; nothing will be said of it again."""

    task: TaskId
    state: TaskState
    reason: str = ""


Effect = Assign | Revoke | Flush | Settle


@dataclass(slots=True)
class _Task:
    id: TaskId
    client: Client
    kind: Kind
    state: TaskState = TaskState.QUEUED
    attempts: int = 0
    session: Session | None = None
    assignment: int = 0
    rival: tuple[Session, int] | None = None  # the second worker of a race, and its assignment
    claimed: bool = False  # a reply has come, and is being looked at

    @property
    def runners(self) -> list[Session]:
        """The workers that have it."""
        first = [self.session] if self.session is not None else []
        return first + ([self.rival[0]] if self.rival is not None else [])

    def swap(self) -> None:
        """The second worker of a race is the first from now on."""
        assert self.session is not None, "a race has two workers"
        assert self.rival is not None, "a race has two workers"
        first = self.session, self.assignment
        (self.session, self.assignment), self.rival = self.rival, first

    def move(self, event: TaskEvent) -> None:
        try:
            self.state = TABLE[self.state, event]
        except KeyError:
            raise LookupError(f"{event} does not fit {self!r}") from None


@dataclass(slots=True)
class _Relay:
    """``slots``: assignments that it may have at a time. ``open``: those that run, their tasks."""

    slots: int = 0
    open: dict[int, set[TaskId]] = field(default_factory=dict)


def _most(kind: Kind) -> int:
    return kind.most


def _one(_: Kind) -> int:
    return 1


def _no_more(_: Kind) -> bool:
    return False


@dataclass(slots=True)
class Dispatcher:
    """The machine. Not thread-safe: one thread (the server's event loop) feeds it.

    ``max_attempts``: how often a task may be given out before it is called failed.
    ``batch``: how many tasks of a kind one assignment may have, by how long they take.
    ``least``: how many of a kind are too little work to be left for an assignment of their own.
    ``patient``: sums stay with their workers until ``flush``; for a relay, which is told when.
    ``more``: whether tasks of a kind are still to be submitted, as far as is known.
    ``first``: the number of the first assignment.
    """

    max_attempts: int = 3
    batch: Callable[[Kind], int] = _most
    least: Callable[[Kind], int] = _one
    patient: bool = False
    more: Callable[[Kind], bool] = _no_more
    first: int = 1
    _tasks: dict[TaskId, _Task] = field(default_factory=dict)
    _queue: deque[TaskId] = field(default_factory=deque)
    _free: dict[Session, None] = field(default_factory=dict)  # in the order of their readiness
    _sessions: dict[Session, set[TaskId]] = field(default_factory=dict)  # and what each has
    _bound: dict[Session, frozenset[Client]] = field(default_factory=dict)  # may serve these only
    _relays: dict[Session, _Relay] = field(default_factory=dict)
    _summing: set[Session] = field(default_factory=set)  # have a sum that was not asked for yet
    _busy_clients: set[Client] = field(default_factory=set)
    _assignments: int = field(init=False)

    def __post_init__(self) -> None:
        self._assignments = self.first - 1

    # ------------------------------------------------------------- events

    def submit(self, tasks: Iterable[tuple[TaskId, Client, Kind]]) -> list[Effect]:
        """New tasks, in the order in which they should be served."""
        for task_id, client, kind in tasks:
            if task_id in self._tasks:
                raise LookupError(f"task {task_id} was submitted before")
            self._tasks[task_id] = _Task(task_id, client, kind)
            self._queue.append(task_id)
        return self._dispatch()

    def join(self, session: Session, clients: frozenset[Client] | None = None) -> list[Effect]:
        """A worker has connected; it is given nothing until it is ready.

        ``clients``: those that it may serve; None: any.
        """
        self._sessions[session] = set()
        if clients is not None:
            self._bound[session] = clients
        return []

    def ready(self, session: Session) -> list[Effect]:
        """The worker is free."""
        if session not in self._sessions or session in self._free or session in self._relays:
            return []
        self._free[session] = None
        return self._dispatch()

    def widen(self, session: Session, slots: int) -> list[Effect]:
        """The session is a relay's, and takes so many assignments at a time from now on."""
        if session not in self._sessions:
            return []
        self._relays.setdefault(session, _Relay()).slots = slots
        self._free_slots(session)
        return self._dispatch()

    def leave(self, session: Session, reason: str) -> list[Effect]:
        """The worker is gone, in whatever way, and what it had with it."""
        if session not in self._sessions:
            return []
        self._free.pop(session, None)
        self._bound.pop(session, None)
        self._relays.pop(session, None)
        self._summing.discard(session)
        effects = self._lose_all(session, self._sessions[session], reason)
        del self._sessions[session]
        return effects + self._dispatch()

    def lose(self, session: Session, tasks: Iterable[TaskId], reason: str) -> list[Effect]:
        """The worker is there, and these of its tasks are not."""
        had = self._sessions.get(session, set())
        return self._lose_all(session, had & set(tasks), reason) + self._dispatch()

    def holds(self, session: Session, assignment: int, task_id: TaskId) -> bool:
        """Whether a reply from there would count now."""
        task = self._tasks.get(task_id)
        return (
            task is not None
            and task.state is TaskState.RUNNING
            and (session, assignment) in ((task.session, task.assignment), task.rival)
        )

    def waits(self, task_id: TaskId) -> bool:
        """Whether no worker has the task now."""
        task = self._tasks.get(task_id)
        return task is not None and task.state is TaskState.QUEUED

    def held(self, session: Session, task_id: TaskId) -> bool:
        """Whether the task's update is in a sum of this worker."""
        task = self._tasks.get(task_id)
        return task is not None and task.state is TaskState.HELD and task.session == session

    def holder(self, task_id: TaskId) -> Session | None:
        """In whose sum the task's update is."""
        task = self._tasks.get(task_id)
        return task.session if task is not None and task.state is TaskState.HELD else None

    def race(self, task_ids: Iterable[TaskId]) -> list[Effect]:
        """These take long: each is given to a second worker too, as far as there are idle ones.

        Not a site's: its data lie there. Not a relay's, which has workers of its own.
        """
        given: list[Effect] = []
        idle = [each for each in self._free if each not in self._bound and each not in self._relays]
        for task_id in task_ids:
            task = self._tasks.get(task_id)
            if task is None or task.state is not TaskState.RUNNING:
                continue
            if task.claimed or task.rival is not None:
                continue
            if task.session in self._bound or task.session in self._relays:
                continue
            # A worker is free while its reply is on its way.
            session = next((each for each in idle if each != task.session), None)
            if session is None:
                continue
            idle.remove(session)
            del self._free[session]
            self._assignments += 1
            task.rival = session, self._assignments
            self._sessions[session].add(task_id)
            # Sent at once: in a sum, it would have to wait for others.
            given.append(Assign(session, self._assignments, (task_id,), hold=False))
        return given

    def claim(self, session: Session, task_id: TaskId) -> list[Effect]:
        """A reply from there has come; another worker that has the task is to drop it."""
        task = self._tasks[task_id]
        task.claimed = True
        if task.rival is None:
            return []
        if task.session != session:
            task.swap()
        return [Revoke(self._part(task), task_id)]

    def forfeit(self, session: Session, task_id: TaskId) -> bool:
        """The worker cannot do the task; True if that is left to another one that has it."""
        task = self._tasks[task_id]
        if task.rival is None:
            return False
        if task.session == session:
            task.swap()
        self._part(task)
        return True

    def hold(self, task_id: TaskId) -> list[Effect]:
        """The client has answered, and its update is in its worker's sum."""
        task = self._tasks[task_id]
        task.move(TaskEvent.HOLD)
        assert task.session is not None, "a running task has a worker"
        self._summing.add(task.session)
        if self._stopped(task):
            return self._dispatch()
        return self._flush_idle() if task.session in self._free else []

    def answer(self, task_id: TaskId) -> list[Effect]:
        """The task's update has arrived whole, by itself or in a sum, and was accepted."""
        return self._finish(task_id, TaskEvent.ANSWER, "")

    def fail(self, task_id: TaskId, reason: str, *, retry: bool) -> list[Effect]:
        """The client could not be served.

        ``retry``: another try may end otherwise (its process was killed), so give it one.
        """
        if retry:
            return self._lose(self._tasks[task_id], reason) + self._dispatch()
        return self._finish(task_id, TaskEvent.FAIL, reason)

    def postpone(self, task_id: TaskId) -> list[Effect]:
        """The worker has not begun with the task; that is no attempt."""
        task = self._tasks[task_id]
        task.attempts -= 1
        return self._lose(task, "it was not begun") + self._dispatch()

    def withdraw(self, task_ids: Iterable[TaskId], reason: str) -> list[Effect]:
        """Nobody waits for these any more. Those that clients have answered still come."""
        effects: list[Effect] = []
        gone = {
            task_id
            for task_id in task_ids
            if task_id in self._tasks and self._tasks[task_id].state is not TaskState.HELD
        }
        self._queue = deque(task_id for task_id in self._queue if task_id not in gone)
        for task_id in sorted(gone):
            task = self._tasks[task_id]
            effects += [Revoke(session, task_id) for session in task.runners]
            task.move(TaskEvent.WITHDRAW)
            effects.append(self._settle(task, reason))
        return effects + self._dispatch()

    def flush(self) -> list[Effect]:
        """Have every sum sent, though there is more to do."""
        summing, self._summing = self._summing, set()
        return [Flush(session) for session in sorted(summing)]

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
        """Workers that are connected, those of relays among them."""
        relayed = sum(relay.slots for relay in self._relays.values())
        return len(self._sessions) - len(self._relays) + relayed

    def check(self) -> None:
        """Raise AssertionError when what must always hold does not; for tests."""
        queued = {t.id for t in self._tasks.values() if t.state is TaskState.QUEUED}
        assert queued == set(self._queue)
        assert len(self._queue) == len(queued), "a task is queued twice"
        given = [t for t in self._tasks.values() if t.state is not TaskState.QUEUED]
        assert all(t.state in (TaskState.RUNNING, TaskState.HELD) for t in given)
        for session, tasks in self._sessions.items():
            assert tasks == {t.id for t in given if session in t.runners}
        assert all(t.session in self._sessions for t in given)
        assert all(t.client in self._bound.get(t.session or "", {t.client}) for t in given)
        assert {t.client for t in given} == self._busy_clients
        for task in self._tasks.values():
            if task.rival is not None:
                assert task.state is TaskState.RUNNING, "only a task that runs is in a race"
                assert task.rival[0] in self._sessions
                assert len(set(task.runners)) == 2, "a race has two workers"
                assert not set(task.runners) & {*self._bound, *self._relays}
        assert len(self._busy_clients) == len(given), "a client is served twice at once"
        assert set(self._free) <= set(self._sessions)
        assert self._summing <= set(self._sessions)
        for session, relay in self._relays.items():
            running = {t.id for t in given if t.session == session and t.state is TaskState.RUNNING}
            assert {id for tasks in relay.open.values() for id in tasks} == running
            assert all(relay.open.values()), "an assignment without tasks is open"
            assert (session in self._free) == (len(relay.open) < relay.slots)
        idle = {session for session in self._free if self._idle(session)}
        assert self.patient or not idle & self._summing, "an idle worker keeps a sum"

    # ------------------------------------------------------------- inside

    def _part(self, task: _Task) -> Session:
        """End a race: the second worker does not have the task any more."""
        assert task.rival is not None, "it was in a race"
        session, _ = task.rival
        task.rival = None
        self._sessions[session].discard(task.id)
        return session

    def _release(self, task: _Task) -> None:
        if task.rival is not None:
            self._part(task)
        if task.session is not None:
            self._stopped(task)
            task.claimed = False
            self._busy_clients.discard(task.client)
            self._sessions[task.session].discard(task.id)
            task.session = None

    def _stopped(self, task: _Task) -> bool:
        """The task does not run any more; True if a relay has room again because of that."""
        relay = self._relays.get(task.session or "")
        tasks = relay.open.get(task.assignment) if relay is not None else None
        if relay is None or tasks is None or task.session is None:
            return False
        tasks.discard(task.id)
        if tasks:
            return False
        del relay.open[task.assignment]
        self._free_slots(task.session)
        return True

    def _free_slots(self, session: Session) -> None:
        """A relay is free as long as it has a slot that is."""
        relay = self._relays[session]
        if len(relay.open) < relay.slots:
            self._free.setdefault(session)
        else:
            self._free.pop(session, None)

    def _idle(self, session: Session) -> bool:
        """Whether a free worker has nothing to do; a relay that has a free slot may have."""
        relay = self._relays.get(session)
        return relay is None or not relay.open

    def _settle(self, task: _Task, reason: str) -> Settle:
        self._release(task)
        del self._tasks[task.id]
        return Settle(task.id, task.state, reason)

    def _finish(self, task_id: TaskId, event: TaskEvent, reason: str) -> list[Effect]:
        task = self._tasks[task_id]
        session = task.session
        task.move(event)
        settled = self._settle(task, reason)
        if self._queue:
            return [settled, *self._dispatch()]
        return [settled, *(self._flush_idle() if session in self._relays else ())]

    def _lose_all(self, session: Session, task_ids: Iterable[TaskId], reason: str) -> list[Effect]:
        effects: list[Effect] = []
        # The oldest comes to the front last, and so is the first of the queue.
        for task_id in sorted(task_ids, reverse=True):
            if not self.forfeit(session, task_id):
                effects += self._lose(self._tasks[task_id], reason)
        return effects

    def _lose(self, task: _Task, reason: str) -> list[Effect]:
        if task.state is TaskState.HELD:
            task.attempts -= 1  # its client did answer: it is not to blame
        if task.attempts >= self.max_attempts:
            task.move(TaskEvent.GIVE_UP)
            tries = f"{task.attempts} tries" if task.attempts != 1 else "1 try"
            return [self._settle(task, f"{reason} (given up after {tries})")]
        task.move(TaskEvent.LOSE)
        self._release(task)
        self._queue.appendleft(task.id)
        return []

    def _dispatch(self) -> list[Effect]:
        if not self._queue:  # with thousands of idle workers, the rest would be all there is to do
            return self._flush_idle()
        given: list[Assign] = []
        waiting = deque(self._free)
        while waiting:
            session = waiting.popleft()
            tasks = self._take(self._bound.get(session))
            if not tasks:
                if session in self._bound:
                    continue  # there may be something for another
                break
            del self._free[session]
            self._assignments += 1
            for task in tasks:
                task.move(TaskEvent.ASSIGN)
                task.attempts += 1
                task.session = session
                task.assignment = self._assignments
                self._sessions[session].add(task.id)
            ids = tuple(task.id for task in tasks)
            if session in self._relays:
                self._relays[session].open[self._assignments] = set(ids)
                self._free_slots(session)
                if session in self._free:
                    waiting.append(session)  # in turn with the others
            given.append(Assign(session, self._assignments, ids, hold=tasks[0].kind.foldable))
        return [*map(self._unless_alone, given), *self._flush_idle()]

    def _unless_alone(self, assign: Assign) -> Assign:
        """A worker that will have this one update only had better send it at once."""
        session = assign.session
        # A relay's workers serve several assignments at a time.
        given = self._sessions[session] if session in self._relays else assign.tasks
        if len(given) > 1 or session in self._summing:
            return assign
        kind = self._tasks[assign.tasks[0]].kind
        if (self._queue or self.more(kind)) and session not in self._bound:
            return assign
        return replace(assign, hold=False)

    def _flush_idle(self) -> list[Effect]:
        """Workers that are free, and have nothing to do, may as well send what they hold."""
        if self.patient or not self._summing:
            return []
        idle = [each for each in self._free if each in self._summing and self._idle(each)]
        self._summing.difference_update(idle)
        return [Flush(session) for session in idle]

    def _take(self, clients: frozenset[Client] | None) -> list[_Task]:
        """The next tasks of one kind whose clients are free: a client's state must not fork."""
        first = self._next(None, clients)
        if first is None:
            return []
        # Workers that come later find something left: the last assignments are small ones. But
        # those that are free now may have all of what is little work.
        left = len(self._queue) + 1
        even = -(-left // max(1, len(self._free)))
        share = max(-(-left // (2 * self.sessions)), min(even, self.least(first.kind)))
        tasks = [first]
        for _ in range(min(share, self.batch(first.kind)) - 1):
            task = self._next(first.kind, clients)
            if task is None:
                break
            tasks.append(task)
        return tasks

    def _next(self, kind: Kind | None, clients: frozenset[Client] | None) -> _Task | None:
        """The first queued task whose client is free, and one of these; of that kind, or None."""
        for index, task_id in enumerate(self._queue):
            task = self._tasks[task_id]
            if clients is not None and task.client not in clients:
                continue
            if kind is not None and task.kind != kind:
                return None
            if task.client not in self._busy_clients:
                self._busy_clients.add(task.client)
                del self._queue[index]
                return task
        return None

"""The dispatcher against a model that knows only what its effects said."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedkube.core.tasks import Assign, Dispatcher, Flush, Kind, Revoke, Settle, TaskState

SESSIONS = st.sampled_from(["s0", "s1", "s2", "s3"])
RELAYS = st.sampled_from(["r0", "r1"])
CLIENTS = st.integers(0, 5)
BOUND = {"s2": frozenset({1, 2}), "s3": frozenset({3})}
KINDS = st.sampled_from(
    [Kind("a"), Kind("b", most=3), Kind("c", most=4, foldable=True), Kind("d", foldable=True)]
)


class DispatcherMachine(RuleBasedStateMachine):
    @initialize(max_attempts=st.integers(1, 3), least=st.integers(1, 5))
    def begin(self, max_attempts, least):
        self.dispatcher = Dispatcher(max_attempts, least=lambda kind: least)
        self.client = {}  # of every task that was ever submitted
        self.kind = {}
        self.joined = set()
        self.free = set()  # workers, and relays that have a slot left
        self.slots = {}  # of each relay that is there
        self.running = {}  # task -> (session, assignment)
        self.claimed = set()  # tasks of which a reply is being looked at
        self.rival = {}  # task in a race -> the second (session, assignment)
        self.held = {}  # task -> session
        self.unasked = set()  # sessions with a sum that was not asked for
        self.blamed = {}  # task -> attempts that count
        self.settled = {}  # task -> state
        self.assignments = set()

    # ------------------------------------------------------------- events

    @rule(clients=st.lists(CLIENTS, min_size=1, max_size=6), kind=KINDS)
    def submit(self, clients, kind):
        tasks = [(len(self.client) + i, client) for i, client in enumerate(clients)]
        self.client |= dict(tasks)
        self.kind |= {task: kind for task, _ in tasks}
        self.apply(self.dispatcher.submit((task, client, kind) for task, client in tasks))

    @rule(session=SESSIONS)
    def join(self, session):
        if session not in self.joined:
            self.joined.add(session)
            assert self.dispatcher.join(session, BOUND.get(session)) == []

    @rule(session=SESSIONS)
    def ready(self, session):
        if session in self.joined:
            self.free.add(session)
        self.apply(self.dispatcher.ready(session))

    @rule(session=RELAYS, slots=st.integers(0, 3))
    def widen(self, session, slots):
        if session not in self.joined:
            self.joined.add(session)
            assert self.dispatcher.join(session) == []
        self.slots[session] = slots
        self.see_slots(session)
        self.apply(self.dispatcher.widen(session, slots))

    @rule(session=st.one_of(SESSIONS, RELAYS))
    def leave(self, session):
        self.free.discard(session)
        self.slots.pop(session, None)
        self.joined.discard(session)
        self.unasked.discard(session)
        self.lose_at(session, [*self.running, *self.held])
        self.apply(self.dispatcher.leave(session, "lost"))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cut(self, data):
        """A worker comes back and has not got some of its tasks."""
        task = data.draw(st.sampled_from(sorted(self.running)))
        session = data.draw(st.sampled_from(self.runners(task)))
        self.lose_at(session, [task])
        self.apply(self.dispatcher.lose(session, [task], "cut"))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def race(self, data):
        """Some take long: idle workers get them too, and nobody else does."""
        tasks = data.draw(st.lists(st.sampled_from(sorted(self.running)), unique=True))
        apart = {*BOUND, *self.slots}
        idle = self.free - apart
        effects = self.dispatcher.race(tasks)
        for effect in effects:
            (task,) = effect.tasks
            assert task in tasks
            assert task not in {*self.rival, *self.claimed}
            assert self.running[task][0] not in {*apart, effect.session}
            assert effect.session in idle
            assert effect.assignment not in self.assignments
            assert not effect.hold
            idle.discard(effect.session)
            self.free.discard(effect.session)
            self.assignments.add(effect.assignment)
            self.rival[task] = (effect.session, effect.assignment)
        for task in set(tasks) - {*self.rival, *self.claimed}:
            here = self.running[task][0]
            assert here in apart or idle <= {here}, "an idle worker could try it as well"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def look_at_a_reply(self, data):
        """It takes a while until it counts; whoever else has the task is told at once."""
        self.claim(data, data.draw(st.sampled_from(sorted(self.running))))

    @precondition(lambda self: self.rival)
    @rule(data=st.data())
    def forfeit(self, data):
        task = data.draw(st.sampled_from(sorted(self.rival)))
        session = data.draw(st.sampled_from(self.runners(task)))
        assert self.dispatcher.forfeit(session, task)
        self.lose_at(session, [task])
        assert not self.dispatcher.forfeit(session, task), "the other is not in a race any more"

    @precondition(lambda self: self.running or self.held)
    @rule(data=st.data())
    def answer(self, data):
        task = data.draw(st.sampled_from(sorted([*self.running, *self.held])))
        self.claim(data, task)
        effects = self.dispatcher.answer(task)
        assert effects[0] == Settle(task, TaskState.ANSWERED)
        self.apply(effects)

    @precondition(lambda self: any(self.kind[task].foldable for task in self.running))
    @rule(data=st.data())
    def hold(self, data):
        summed = sorted(task for task in self.running if self.kind[task].foldable)
        task = data.draw(st.sampled_from(summed))
        self.claim(data, task)
        self.held[task] = self.running.pop(task)[0]
        self.claimed.discard(task)
        self.unasked.add(self.held[task])
        self.see_slots(self.held[task])
        self.apply(self.dispatcher.hold(task))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), retry=st.booleans())
    def fail(self, data, retry):
        task = data.draw(st.sampled_from(sorted(self.running)))
        self.claim(data, task)
        gives_up = not retry or self.blamed[task] == self.dispatcher.max_attempts
        self.see_slots(self.running.pop(task)[0])
        self.claimed.discard(task)
        effects = self.dispatcher.fail(task, "it broke", retry=retry)
        assert any(isinstance(e, Settle) and e.task == task for e in effects) == gives_up
        self.apply(effects)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def postpone(self, data):
        task = data.draw(st.sampled_from(sorted(self.running)))
        self.claim(data, task)
        self.see_slots(self.running.pop(task)[0])
        self.claimed.discard(task)
        self.blamed[task] -= 1
        effects = self.dispatcher.postpone(task)
        assert not any(isinstance(e, Settle) and e.task == task for e in effects)
        self.apply(effects)

    @rule(data=st.data())
    def withdraw(self, data):
        known = st.integers(0, len(self.client) + 1)
        tasks = data.draw(st.sets(known, max_size=4))
        effects = self.dispatcher.withdraw(tasks, "nobody waits")
        gone = {e.task for e in effects if isinstance(e, Settle)}
        open_tasks = {t for t in tasks if t in self.client and t not in self.settled}
        assert gone == open_tasks - set(self.held)
        self.apply(effects)

    @rule()
    def flush(self):
        effects = self.dispatcher.flush()
        assert {e.session for e in effects} == self.unasked
        self.apply(effects)

    # ------------------------------------------------------------- the model

    def where(self, task):
        return self.running[task][0] if task in self.running else self.held[task]

    def runners(self, task):
        return [self.running[task][0], *([self.rival[task][0]] if task in self.rival else ())]

    def claim(self, data, task):
        """The first answer counts, whoever of the two it comes from, and the other is told."""
        if task in self.running:
            self.claimed.add(task)
        if task not in self.rival:
            if task in self.running:
                assert self.dispatcher.claim(self.running[task][0], task) == []
            return
        winner = data.draw(st.sampled_from(self.runners(task)))
        (loser,) = set(self.runners(task)) - {winner}
        lost = self.running[task] if loser == self.running[task][0] else self.rival[task]
        assert self.dispatcher.claim(winner, task) == [Revoke(loser, task)]
        self.lose_at(loser, [task])
        assert not self.dispatcher.holds(*lost, task), "a late answer does not count"

    def lose_at(self, session, tasks):
        """Of a race, one worker goes and the other stays."""
        for task in tasks:
            if task in self.rival and session in self.runners(task):
                second = self.rival.pop(task)
                if self.running[task][0] == session:
                    self.running[task] = second
            elif self.where(task) == session:
                self.lose([task])

    def lose(self, tasks):
        for task in list(tasks):
            if self.held.pop(task, None) is not None:
                self.blamed[task] -= 1
            if task in self.running:
                self.see_slots(self.running.pop(task)[0])
                self.claimed.discard(task)

    def open(self, session):
        """How many assignments of a relay's are running."""
        return len({number for one, number in self.running.values() if one == session})

    def see_slots(self, session):
        if session in self.slots:
            if self.open(session) < self.slots[session]:
                self.free.add(session)
            else:
                self.free.discard(session)

    def apply(self, effects):
        for effect in effects:
            match effect:
                case Assign(session, assignment, tasks, hold):
                    assert session in self.free, "only a worker that said it is free gets a task"
                    assert assignment not in self.assignments
                    assert tasks
                    assert len({self.kind[task] for task in tasks}) == 1
                    assert len(tasks) <= self.kind[tasks[0]].most
                    assert not hold or self.kind[tasks[0]].foldable
                    self.assignments.add(assignment)
                    if session not in self.slots:
                        self.free.discard(session)
                    for task in tasks:
                        assert task not in self.settled
                        assert self.client[task] in BOUND.get(session, {self.client[task]})
                        busy = {self.client[each] for each in [*self.running, *self.held]}
                        assert self.client[task] not in busy, "one client was served twice at once"
                        self.blamed[task] = self.blamed.get(task, 0) + 1
                        assert self.blamed[task] <= self.dispatcher.max_attempts
                        self.running[task] = (session, assignment)
                    self.see_slots(session)
                case Revoke(session, task):
                    assert session in self.runners(task)
                case Flush(session):
                    assert session in self.unasked, "a sum is asked for once"
                    self.unasked.discard(session)
                case Settle(task, state, _):
                    assert task not in self.settled, "a task settled twice"
                    assert state in (TaskState.ANSWERED, TaskState.FAILED, TaskState.WITHDRAWN)
                    self.settled[task] = state
                    if task in self.running:
                        self.see_slots(self.running.pop(task)[0])
                    self.rival.pop(task, None)
                    self.held.pop(task, None)

    @invariant()
    def what_must_always_hold(self):
        if not hasattr(self, "dispatcher"):
            return
        self.dispatcher.check()
        given = len(self.running) + len(self.held)
        relayed = sum(self.slots.values())
        assert self.dispatcher.sessions == len(self.joined) - len(self.slots) + relayed
        assert all(self.open(relay) <= 3 for relay in self.slots)
        assert self.dispatcher.running == given
        assert self.dispatcher.queued + given + len(self.settled) == len(self.client)
        for task, (session, assignment) in self.running.items():
            assert self.dispatcher.holds(session, assignment, task)
        for task, (session, assignment) in self.rival.items():
            assert self.dispatcher.holds(session, assignment, task)
        for task, session in self.held.items():
            assert self.dispatcher.held(session, task)

    @invariant()
    def no_worker_idles_while_a_task_could_run(self):
        if not hasattr(self, "dispatcher") or not self.free:
            return
        given = {*self.running, *self.held}
        busy = {self.client[task] for task in given}
        waiting = set(self.client) - set(self.settled) - given
        could = {self.client[task] for task in waiting} - busy
        assert not any(could & BOUND.get(session, could) for session in self.free)
        idle = {each for each in self.free if each not in self.slots or not self.open(each)}
        assert not idle & self.unasked, "an idle worker may as well send its sum"

    def teardown(self):
        """With one worker that does its work, every task settles, exactly once."""
        if not hasattr(self, "dispatcher"):
            return
        for session in list(self.joined):
            self.leave(session)
        self.join("s0")
        self.ready("s0")
        while self.running:
            for task in list(self.running):
                self.apply(self.dispatcher.answer(task))
            self.ready("s0")
        assert set(self.settled) == set(self.client)
        assert self.dispatcher.queued == self.dispatcher.running == 0


DispatcherMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestDispatcher = DispatcherMachine.TestCase

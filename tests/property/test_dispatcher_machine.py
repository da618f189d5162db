"""The dispatcher against a model that knows only what its effects said."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedkube.core.tasks import Assign, Dispatcher, Revoke, Settle, TaskState

SESSIONS = st.sampled_from(["s0", "s1", "s2", "s3"])
CLIENTS = st.integers(0, 3)


class DispatcherMachine(RuleBasedStateMachine):
    @initialize(max_attempts=st.integers(1, 3))
    def begin(self, max_attempts):
        self.dispatcher = Dispatcher(max_attempts)
        self.client = {}  # of every task that was ever submitted
        self.joined = set()
        self.free = set()
        self.holding = {}  # session -> (task, attempt)
        self.attempts = {}  # task -> how often it was given out
        self.settled = {}  # task -> state
        self.given_out = []  # (session, task, attempt) of all times

    # ------------------------------------------------------------- events

    @rule(clients=st.lists(CLIENTS, min_size=1, max_size=4))
    def submit(self, clients):
        tasks = [(len(self.client) + i, client) for i, client in enumerate(clients)]
        self.client |= dict(tasks)
        self.apply(self.dispatcher.submit(tasks))

    @rule(session=SESSIONS)
    def join(self, session):
        self.joined.add(session)
        assert self.dispatcher.join(session) == []

    @rule(session=SESSIONS)
    def ready(self, session):
        if session in self.joined:
            self.holding.pop(session, None)
            self.free.add(session)
        self.apply(self.dispatcher.ready(session))

    @rule(session=SESSIONS)
    def leave(self, session):
        self.holding.pop(session, None)
        self.free.discard(session)
        self.joined.discard(session)
        self.apply(self.dispatcher.leave(session, "lost"))

    @precondition(lambda self: self.given_out)
    @rule(data=st.data())
    def answer(self, data):
        reply = self.any_reply(data)
        effects = self.dispatcher.answer(*reply)
        if not self.counts(reply):
            assert effects == []
            return
        assert effects[0] == Settle(reply[1], TaskState.ANSWERED)
        self.apply(effects)

    @precondition(lambda self: self.given_out)
    @rule(data=st.data(), retry=st.booleans())
    def fail(self, data, retry):
        reply = self.any_reply(data)
        counts = self.counts(reply)
        effects = self.dispatcher.fail(*reply, "it broke", retry=retry)
        if not counts:
            assert effects == []
            return
        gives_up = not retry or reply[2] == self.dispatcher.max_attempts
        assert any(isinstance(e, Settle) and e.task == reply[1] for e in effects) == gives_up
        del self.holding[reply[0]]
        self.apply(effects)

    @rule(data=st.data())
    def withdraw(self, data):
        known = st.integers(0, len(self.client) + 1)
        tasks = data.draw(st.sets(known, max_size=4))
        effects = self.dispatcher.withdraw(tasks, "nobody waits")
        gone = {e.task for e in effects if isinstance(e, Settle)}
        assert gone == {t for t in tasks if t in self.client and t not in self.settled}
        self.apply(effects)

    # ------------------------------------------------------------- the model

    def any_reply(self, data):
        """A reply to something that was given out at any time: most of them are stale."""
        session, task, attempt = data.draw(st.sampled_from(self.given_out))
        if data.draw(st.integers(0, 9)) == 0:
            session = data.draw(SESSIONS)
        if data.draw(st.integers(0, 9)) == 0:
            attempt += 1
        return session, task, attempt

    def counts(self, reply):
        session, task, attempt = reply
        return self.holding.get(session) == (task, attempt)

    def apply(self, effects):
        for effect in effects:
            match effect:
                case Assign(session, task, attempt):
                    assert task not in self.settled
                    assert session in self.free, "only a worker that said it is free gets a task"
                    assert session not in self.holding
                    busy = {self.client[held] for held, _ in self.holding.values()}
                    assert self.client[task] not in busy, "one client was served twice at once"
                    assert attempt == self.attempts.get(task, 0) + 1
                    assert attempt <= self.dispatcher.max_attempts
                    self.attempts[task] = attempt
                    self.free.discard(session)
                    self.holding[session] = (task, attempt)
                    self.given_out.append((session, task, attempt))
                case Revoke(session, task, attempt):
                    assert self.holding[session] == (task, attempt)
                case Settle(task, state, _):
                    assert task not in self.settled, "a task settled twice"
                    assert state in (TaskState.ANSWERED, TaskState.FAILED, TaskState.WITHDRAWN)
                    self.settled[task] = state
                    for session, (held, _) in list(self.holding.items()):
                        if held == task:
                            del self.holding[session]

    @invariant()
    def what_must_always_hold(self):
        if not hasattr(self, "dispatcher"):
            return
        self.dispatcher.check()
        assert self.dispatcher.sessions == len(self.joined)
        assert self.dispatcher.running == len(self.holding)
        assert self.dispatcher.queued + len(self.holding) + len(self.settled) == len(self.client)
        for session, (task, attempt) in self.holding.items():
            assert self.dispatcher.holds(session, task, attempt)

    @invariant()
    def no_worker_idles_while_a_task_could_run(self):
        if not hasattr(self, "dispatcher") or not self.free:
            return
        running = {task for task, _ in self.holding.values()}
        busy = {self.client[task] for task in running}
        waiting = set(self.client) - set(self.settled) - running
        assert not {task for task in waiting if self.client[task] not in busy}

    def teardown(self):
        """With one worker that does its work, every task settles, exactly once."""
        if not hasattr(self, "dispatcher"):
            return
        for session in list(self.joined):
            self.leave(session)
        self.join("s0")
        self.ready("s0")
        while "s0" in self.holding:
            task, attempt = self.holding["s0"]
            self.apply(self.dispatcher.answer("s0", task, attempt))
            self.ready("s0")
        assert set(self.settled) == set(self.client)
        assert self.dispatcher.queued == self.dispatcher.running == 0


DispatcherMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestDispatcher = DispatcherMachine.TestCase

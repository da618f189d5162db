from __future__ import annotations

import threading

import pytest
from fedkube_server.flower.batches import Batch, Mailbox, Sent
from fedkube_server.halt import Ending, Halt, Halted

from fedkube.core.run_states import RunEvent
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store.history import Phase

OUTCOME = pb.Failure(reason="x")


@pytest.fixture
def halt():
    return Halt()


@pytest.fixture
def mailbox(halt):
    return Mailbox(halt)


@pytest.fixture
def batch():
    return Batch(Phase("train"), [Sent(task, task, None) for task in (1, 2)], ends_phase=True)


def test_the_last_outcome_is_told_apart(mailbox, batch):
    assert not mailbox.put(batch, batch.order[1], OUTCOME)
    assert mailbox.put(batch, batch.order[0], OUTCOME)
    assert batch.open == 0


def test_a_second_outcome_of_a_message_is_dropped(mailbox, batch):
    mailbox.put(batch, batch.order[0], OUTCOME)
    assert not mailbox.put(batch, batch.order[0], pb.Failure(reason="y"))
    assert batch.order[0].outcome is OUTCOME
    assert batch.open == 1


def test_waiting_ends_when_all_are_there(mailbox, batch):
    threads = [
        threading.Thread(target=mailbox.put, args=(batch, sent, OUTCOME)) for sent in batch.order
    ]
    for thread in threads:
        thread.start()
    assert mailbox.wait(batch, None)
    for thread in threads:
        thread.join()


def test_waiting_ends_when_time_is_up(mailbox, batch):
    assert not mailbox.wait(batch, 0)
    mailbox.put(batch, batch.order[0], OUTCOME)
    mailbox.put(batch, batch.order[1], OUTCOME)
    assert mailbox.wait(batch, 0)


def test_waiting_ends_with_the_run(mailbox, batch, halt):
    thread = threading.Thread(
        target=halt.set, args=(Ending(RunEvent.STOPPED, "Stopped", "by a person"),)
    )
    thread.start()
    with pytest.raises(Halted, match="by a person"):
        mailbox.wait(batch, None)
    thread.join()


def test_a_run_that_has_ended_gives_no_replies_even_if_they_are_there(mailbox, batch, halt):
    for sent in batch.order:
        mailbox.put(batch, sent, OUTCOME)
    halt.set(Ending(RunEvent.STOPPED, "Stopped", "by a person"))
    with pytest.raises(Halted):
        mailbox.wait(batch, None)


def test_an_empty_batch_is_complete(mailbox):
    assert mailbox.wait(Batch(Phase("train"), [], ends_phase=True), None)


def test_time_does_not_run_out_before_there_is_anything(mailbox, batch):
    """Of two outcomes one comes after the time; the other is not waited for then."""
    came = threading.Event()
    threading.Timer(0.2, lambda: (mailbox.put(batch, batch.order[0], OUTCOME), came.set())).start()
    assert not mailbox.wait(batch, 0.05, starved=lambda: batch.open == 2)
    assert came.wait(10)
    assert batch.open == 1

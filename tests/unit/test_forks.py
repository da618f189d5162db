"""Which entries of a journal belong to a run's first rounds."""

import pytest

from fedkube.proto.v1 import journal_pb2 as pb
from fedkube.store import forks
from fedkube.store.journal import Journal, Stored
from fedkube.store.logs import LocalLog


def present(*clients):
    return Stored(pb.JournalEntry(present=pb.Present(clients=clients)), ())


def commit(number, *calls):
    ended = [pb.Ended(client=client, turn=turn) for client, turn in calls]
    return Stored(pb.JournalEntry(committed=pb.Committed(calls=ended, round=number)), (b"blob",))


def turned(turns, presents=0):
    return Stored(pb.JournalEntry(turned=pb.Turned(turns=turns, presents=presents)), ())


FORKED = Stored(pb.JournalEntry(forked=pb.Forked(run="r", round=1)), ())


def seen(entries):
    """What entries are, in short."""
    return [
        list(each.entry.present.clients)
        if each.entry.HasField("present")
        else (
            each.entry.committed.round,
            [(call.client, call.turn) for call in each.entry.committed.calls],
        )
        for each in entries
    ]


@pytest.mark.parametrize("last", [1, 2, 3])
def test_the_first_rounds_are_all_that_was_committed_in_them_and_told_before(last):
    train = [commit(number, (0, 2 * number)) for number in (1, 2, 3)]
    evaluate = [commit(number, (0, 2 * number + 1)) for number in (1, 2, 3)]
    entries = [
        each
        for number in range(3)
        for each in (
            present(number),
            train[number],
            present(number, number),
            evaluate[number],
        )
    ]
    held = forks.holding(entries)
    assert held == entries
    assert forks.last_round(held) == 3
    assert forks.first_rounds(held, last) == entries[: 4 * last], "who is there then is asked anew"


def test_what_an_app_has_made_void_is_left_out():
    entries = [
        present(0),
        commit(1, (0, 0), (1, 0)),
        present(1),
        commit(2, (0, 1), (1, 1)),
        commit(3, (0, 2), (1, 2)),
        turned([2, 1], presents=1),
        present(2),
        commit(2, (1, 1)),
        commit(3, (0, 2)),
    ]
    held = forks.holding(entries)
    assert seen(held) == [
        [0],
        (1, [(0, 0), (1, 0)]),
        (2, [(0, 1)]),
        [2],
        (2, [(1, 1)]),
        (3, [(0, 2)]),
    ]
    assert seen(forks.first_rounds(held, 2)) == seen(held)[:5]
    assert list(entries[3].entry.committed.calls), "what was read is left as it is"


def test_rounds_that_were_not_noted():
    assert forks.last_round(forks.holding([commit(0, (0, 0))])) == 0
    assert forks.last_round([]) == 0


def test_a_forks_journal_says_what_it_was_forked_from(tmp_path):
    past = [commit(1, (0, 0))]
    journal = Journal(LocalLog(tmp_path / "journal"), "new")
    forks.begin(journal, [Stored(past[0].entry, [memoryview(b"x")])], "old", 1)
    journal.close()
    again = Journal(LocalLog(tmp_path / "journal"), "new").stored
    assert seen(again[:1]) == seen(past)
    assert (again[1].entry.forked.run, again[1].entry.forked.round) == ("old", 1)
    assert seen(forks.holding(again)) == seen(past), "a fork of a fork"


def test_a_forks_journal_is_no_longer_than_that_of_the_run(tmp_path):
    frozen = memoryview(bytes(5000))
    run = Journal(LocalLog(tmp_path / "run"), "old")
    for number in (1, 2):
        run.append(commit(number, (0, number - 1)).entry, [frozen], {0: b"frozen"})
    run.close()
    past = forks.holding(Journal(LocalLog(tmp_path / "run"), "old").stored)
    fork = Journal(LocalLog(tmp_path / "fork"), "new")
    forks.begin(fork, past, "old", 2)
    fork.close()
    assert 5000 < (tmp_path / "fork").stat().st_size < 7000
    again = Journal(LocalLog(tmp_path / "fork"), "new").stored
    assert [bytes(each.blobs[0]) for each in again[:2]] == [bytes(frozen)] * 2


def condensed(number, turns, presents=0):
    entry = pb.Condensed(round=number, turns=turns, presents=presents)
    return Stored(pb.JournalEntry(condensed=entry), ())


def test_a_run_whose_rounds_were_condensed_can_be_forked_after_the_last_of_them():
    before, behind = commit(0, (0, 0)), condensed(4, [9])
    rounds = [commit(5, (0, 9)), commit(6, (0, 10))]
    held = forks.holding([before, behind, *rounds])
    assert held == [before, behind, *rounds]
    assert (forks.condensed_round(held), forks.last_round(held)) == (4, 6)
    assert forks.first_rounds(held, 4) == [before, behind]
    assert forks.first_rounds(held, 5) == [before, behind, rounds[0]]
    assert forks.condensed_round([before]) == 0
    assert forks.last_round(forks.holding([behind])) == 4


@pytest.mark.parametrize(
    ("turns", "presents", "holds"), [([9], 3, True), ([9], 2, False), ([8], 3, False)]
)
def test_what_was_condensed_is_void_where_an_app_has_done_otherwise_before(turns, presents, holds):
    entries = [present(1), condensed(4, [9], 3), present(2), commit(5, (0, 9))]
    held = forks.holding([*entries, turned(turns, presents)])
    assert (entries[1] in held) is holds
    assert entries[0] in held
    assert entries[2] not in held
    assert entries[3] not in held

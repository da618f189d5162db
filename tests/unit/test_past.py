"""What is recalled of a server's earlier life, and what becomes of an app that changes its mind."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from fedkube_server.blobs import BlobStore
from fedkube_server.calls import Answer, ClientState
from fedkube_server.folds import Fold, Sent
from fedkube_server.halt import Ending, Halt, Halted
from fedkube_server.landing import Landed
from fedkube_server.past import Past

from fedkube.core.errors import AppInvalid, Environment
from fedkube.core.run_states import RunEvent
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import journal_pb2 as pb_journal
from fedkube.store import journal as journals
from fedkube.store.journal import Journal
from fedkube.store.logs import LocalLog, NotNow


@pytest.fixture
def lives(tmp_path):
    """Each call begins another life of the server."""
    open_now = []

    def journal():
        for each in open_now:
            each.close()
        open_now[:] = [Journal(LocalLog(tmp_path / "journal"), "r")]
        return open_now[0]

    def begin():
        return Past(journal())

    begin.journal = journal
    return begin


def answer(value=1.0, weight=2.0, state=b""):
    outcome = pb.Outcome(call=1)
    record = outcome.content.records.add(name="arrays")
    record.arrays.items.add(name="w", dtype="float32", shape=[2], stype="numpy.ndarray", blob=0)
    metrics = outcome.content.records.add(name="metrics")
    metrics.metrics.items.add(key="num-examples", real=weight)
    blobs = [memoryview(np.full(2, value, np.float32).tobytes())]
    if state:
        outcome.state.records.add(name="s").configs.items.add(key="k", blob=1)
        blobs.append(memoryview(state))
    return Answer(outcome, blobs)


def fold():
    return Fold({"w": (2,)}, "num-examples", 3)


def summed(past, sums, *calls):
    """Count updates in a sum, as the driver does, and commit them."""
    for client, value in calls:
        sums._count([answer(value).outcome])
        past.settled(client, 0, b"asked", sums, answer(value, state=b"kept"))
    sums._mean = {"w": np.array([3.0, 4.0], np.float32)}
    past.commit(sums)


def test_without_a_journal_nothing_is_kept(lives):
    past = Past()
    past.settled(0, 0, b"", None, answer())
    past.commit()
    assert past.recall(0, 0, b"", None) is None
    assert past.tell(lambda: [1]) == [1]
    past.close(delete=True)


def test_a_reply_comes_back_with_its_arrays_and_its_state(lives):
    past = lives()
    past.settled(4, 0, b"asked", None, answer(7.0, state=b"kept"))
    past.settled(5, 0, b"asked", None, pb.Failure(code=pb.Failure.TIMED_OUT, reason="slow"))
    past.commit()
    past = lives()
    assert past.left == 2
    back = past.recall(4, 0, b"asked", None)
    item = back.outcome.content.records[0].arrays.items[0]
    assert np.frombuffer(back.blobs[item.blob], np.float32).tolist() == [7.0, 7.0]
    state = back.outcome.state.records[0].configs.items[0]
    assert bytes(back.blobs[state.blob]) == b"kept"
    assert past.recall(5, 0, b"asked", None).reason == "slow"
    assert (past.recall(4, 0, b"asked", None), past.left) == (None, 0), "once"


def test_what_was_not_committed_is_not_there(lives):
    past = lives()
    past.settled(4, 0, b"asked", None, answer())
    assert lives().left == 0


def test_summed_updates_come_back_as_their_mean(lives):
    summed(lives(), fold(), (0, 1.0), (1, 5.0))
    past, sums = lives(), fold()
    back = past.recall(1, 0, b"asked", sums)
    assert not back.outcome.content.records[0].arrays.items, "they are in the sum"
    assert bytes(back.blobs[back.outcome.state.records[0].configs.items[0].blob]) == b"kept"
    assert past.recall(0, 0, b"asked", sums) is not None
    assert sums.weights == [2.0, 2.0]
    mean = sums.mean()["w"]
    assert mean.tolist() == [3.0, 4.0]
    mean += 1  # a strategy may


def test_arrays_that_nobody_changes_are_written_once(lives):
    """Of a mean, of clients' states, and of replies that are not summed."""
    store = BlobStore()
    frozen = store.put(memoryview(np.arange(5000, dtype=np.float32).tobytes()))
    past = lives()
    sizes = []
    for turn in range(3):
        sums = Fold({"w": (5000,), "head": (2,)}, "num-examples", 3)
        reply = answer(float(turn), state=b"kept" * 1000)
        head = reply.outcome.content.records[0].arrays.items[0]
        head.name = "head"
        (item,) = [reply.outcome.content.records[0].arrays.items.add()]
        item.CopyFrom(head)
        item.name, item.blob = "w", 2
        item.shape[:] = [5000]
        reply.blobs.append(frozen.data)
        reply.digests = [b"head%d" % turn, b"state", frozen.digest]
        sums.add(
            reply.outcome,
            [pb.Blob(digest=digest) for digest in reply.digests],
            [Landed.known(blob) for blob in reply.blobs],
            {"w": Sent("float32", frozen), "head": Sent("float32", frozen)},
        )
        past.settled(0, turn, b"asked", sums, reply)
        past.settled(1, turn, b"asked", None, reply)
        past.commit(sums)
        sizes.append(past._journal.end)
    assert sizes[0] > 24_000
    assert max(sizes[1] - sizes[0], sizes[2] - sizes[1]) < 2000
    past = lives()
    for turn in range(3):
        sums = Fold({"w": (5000,), "head": (2,)}, "num-examples", 3)
        assert past.recall(0, turn, b"asked", sums) is not None
        assert sums.mean()["head"].tolist() == [turn, turn]
        assert sums.mean()["w"].tobytes() == bytes(frozen.data)
        back = past.recall(1, turn, b"asked", None)
        blobs = [bytes(back.blobs[item.blob]) for item in _items(back)]
        assert blobs == [np.full(2, turn, np.float32).tobytes(), bytes(frozen.data)]
        state = back.outcome.state.records[0].configs.items[0]
        assert bytes(back.blobs[state.blob]) == b"kept" * 1000


def _items(back):
    return back.outcome.content.records[0].arrays.items


def test_late_updates_come_back_with_the_sum_that_they_came_in(lives):
    past, sums = lives(), fold()
    past.settled(0, 0, b"asked", None, pb.Failure(code=pb.Failure.WITHDRAWN, reason="late"))
    past.commit()
    note = pb_journal.Late(group="1", rounds=2, counted=True)
    sums._count([answer(9.0).outcome])
    past.settled(0, 0, b"asked", sums, answer(9.0, state=b"later"), note)
    summed(past, sums, (1, 5.0))
    past, sums = lives(), fold()
    assert past.left == 2, "of the late one, that it failed in its own phase"
    assert past.recall(0, 0, b"asked", None).reason == "late"
    assert past.recall_late(sums) == []
    assert past.recall(1, 0, b"asked", sums) is not None
    ((ended, back),) = past.recall_late(sums)
    assert (ended.client, ended.late) == (0, note)
    assert bytes(back.blobs[back.outcome.state.records[0].configs.items[0].blob]) == b"later"
    assert sums.weights == [2.0, 2.0]
    assert past.recall_late(sums) == [], "once"
    assert past.left == 0


def test_a_sum_of_nothing_is_not_committed(lives):
    past, sums = lives(), fold()
    past.settled(0, 0, b"asked", sums, pb.Failure(reason="broken"))
    past.commit(sums)
    assert lives().left == 0


def test_from_where_an_app_takes_another_way_its_past_is_void(lives, caplog):
    past = lives()
    for turn in range(3):
        for client in range(2):
            past.settled(client, turn, b"%d" % turn, None, answer(turn))
        past.commit()
    assert past.tell(lambda: [0, 1]) == [0, 1]
    past = lives()
    assert past.tell(lambda: pytest.fail("it was told before")) == [0, 1]
    assert past.recall(0, 0, b"0", None) is not None
    assert past.recall(1, 0, b"0", None) is not None
    assert past.recall(0, 1, b"other", None) is None
    assert "the app does not do what it did before: message 2 to client 0" in caplog.text
    assert past.left == 0
    past.settled(0, 1, b"other", None, answer(9.0))
    past.commit()
    past = lives()
    assert past.left == 3, "the first turn of both, and the other second one of the first client"
    assert past.recall(0, 1, b"other", None) is not None
    assert past.tell(lambda: [5]) == [0, 1]
    assert past.tell(lambda: [5]) == [5]


def test_what_this_life_has_committed_holds_when_the_app_takes_another_way(lives):
    past = lives()
    for turn in range(2):
        past.settled(0, turn, b"%d" % turn, None, answer(turn))
    past.commit()
    past = lives()
    assert past.recall(0, 0, b"0", None) is not None
    past.settled(1, 0, b"new", None, answer(5.0))
    past.commit()
    assert past.recall(0, 1, b"other", None) is None
    past = lives()
    assert past.left == 2
    assert past.recall(1, 0, b"new", None) is not None


def test_a_committed_sum_is_used_whole_or_not_at_all(lives):
    summed(lives(), fold(), (0, 1.0), (1, 5.0))
    past, sums = lives(), fold()
    past.recall(0, 0, b"asked", sums)
    with pytest.raises(AppInvalid, match="in the middle of a round that is committed"):
        past.recall(1, 0, b"other", sums)


def test_an_app_that_sums_no_more(lives):
    summed(lives(), fold(), (0, 1.0), (1, 5.0))
    past = lives()
    assert past.recall(0, 0, b"asked", None) is None
    assert past.left == 0


def test_a_fork_takes_the_replies_of_the_other_run_whatever_is_asked(lives, caplog):
    past = lives()
    past.settled(0, 0, b"asked", None, answer(7.0))
    past.commit()
    past._append(pb_journal.JournalEntry(forked=pb_journal.Forked(run="old", round=1)))
    past.settled(0, 1, b"asked", None, answer(8.0))
    past.commit(number=2)
    past = lives()
    assert past.recall(0, 0, b"other", None) is not None
    assert "does not do what it did" not in caplog.text
    assert past.recall(0, 1, b"other", None) is None, "what follows is of this run"
    assert "the app does not do what it did before" in caplog.text


# ------------------------------------------------------------- rounds that were condensed


def condense(past, rounds, clients=()):
    entry = pb_journal.Condensed(rounds=rounds, round=rounds, strategy="FedAvg")
    kept = {}
    for client, state in clients:
        kept[client] = ClientState(blobs=[BlobStore().put(memoryview(state))])
        kept[client].content.records.add(name="s").configs.items.add(key="k", blob=0)
    return past.condense(entry, (b"pickled", [memoryview(b"array" * 9)]), kept)


def ask(past, client, asked, value=1.0):
    """One message, as the grid sends it: recalled, or else asked and committed."""
    turn = past.turn(client)
    found = past.recall(client, turn, asked, None)
    if found is None:
        past.settled(client, turn, asked, None, answer(value))
        past.commit()
    return found is not None


@pytest.fixture
def condensed(lives):
    """A life that asked two clients before its strategy and in two rounds, which are condensed."""
    past = lives()
    assert past.tell(lambda: [0, 1]) == [0, 1]
    assert not ask(past, 0, b"before")
    assert past.start() is None
    assert past.tell(lambda: [1]) == [1]
    for number in range(40):
        assert not ask(past, 1, b"%d" % number)
    assert condense(past, 2, [(0, b"of 0"), (1, b"of 1")])
    assert not ask(past, 1, b"after")
    return lives


def test_rounds_that_are_behind_are_not_asked_again_and_what_was_before_and_after_is(condensed):
    past = condensed()
    assert (past.left, past.condensed) == (2, 2)
    assert past.tell(lambda: pytest.fail("it was told before")) == [0, 1]
    assert ask(past, 0, b"before")
    found = past.start()
    assert (found.entry.rounds, found.entry.strategy) == (2, "FedAvg")
    assert found.state[0] == b"pickled"
    assert [bytes(each) for each in found.state[1]] == [b"array" * 9]
    for client, answered in found.clients.items():
        item = answered.outcome.state.records[0].configs.items[0]
        assert bytes(answered.blobs[item.blob]) == b"of %d" % client
    past.forward(found)
    assert past.tell(lambda: [7]) == [7], "the second telling is behind too"
    assert ask(past, 1, b"after")
    assert past.left == 0
    assert not ask(past, 1, b"new")
    assert past.start() is None


def test_they_are_condensed_again_in_the_place_of_what_they_were(condensed):
    past = condensed()
    past.tell(list)
    ask(past, 0, b"before")
    past.forward(past.start())
    ask(past, 1, b"after")
    for number in range(40):
        assert not ask(past, 1, b"%d" % number)
    assert condense(past, 5)
    past = condensed()
    past.tell(list)
    assert ask(past, 0, b"before")
    found = past.start()
    assert (found.entry.rounds, list(found.entry.turns), found.clients) == (5, [1, 81], {})
    kinds = [each.entry.WhichOneof("kind") for each in condensed.journal().stored]
    assert kinds == ["present", "committed", "condensed"]


def test_of_a_second_strategy_what_the_first_came_to_stays(condensed):
    past = condensed()
    past.tell(list)
    ask(past, 0, b"before")
    past.forward(past.start())
    ask(past, 1, b"after")
    assert past.start() is None
    for number in range(40):
        ask(past, 0, b"%d" % number)
    assert condense(past, 3)
    past = condensed()
    past.tell(list)
    ask(past, 0, b"before")
    first = past.start()
    assert first.entry.rounds == 2
    past.forward(first)
    assert ask(past, 1, b"after")
    assert past.start().entry.rounds == 3


def test_an_app_that_does_otherwise_before_its_strategy_begins_anew(condensed, caplog):
    past = condensed()
    past.tell(list)
    assert not ask(past, 0, b"other")
    assert "the app does not do what it did before: message 1 to client 0" in caplog.text
    assert past.start() is None
    assert not ask(past, 1, b"0")
    past = condensed()
    past.tell(list)
    assert ask(past, 0, b"other"), "and so it does from then on"
    assert past.start() is None
    assert ask(past, 1, b"0")


def test_an_app_that_starts_no_strategy_any_more_begins_anew(condensed, caplog):
    past = condensed()
    past.tell(list)
    assert ask(past, 0, b"before")
    assert not ask(past, 1, b"0")
    assert "the app does not do what it did before: message 1 to client 1" in caplog.text
    assert past.start() is None


def test_a_forked_run_takes_the_replies_of_the_other_also_after_it_was_condensed(condensed):
    journal = condensed.journal()
    journal.append(pb_journal.JournalEntry(forked=pb_journal.Forked(run="other", round=2)))
    past = condensed()
    past.tell(list)
    assert ask(past, 0, b"before, but configured otherwise")
    past.forward(past.start())
    assert ask(past, 1, b"after, but configured otherwise")
    for number in range(40):
        ask(past, 1, b"%d" % number)
    assert condense(past, 5)
    past = condensed()
    past.tell(list)
    assert ask(past, 0, b"in a third way")


@pytest.mark.parametrize("what", ["asked", "uncommitted", "recalled"])
def test_what_is_still_going_on_is_not_condensed(lives, what):
    past = Past(Journal(lives.journal()._log, "r", large_bytes=1))
    past.start()
    ask(past, 0, b"one")
    assert past.due
    match what:
        case "asked":
            past.turn(0)
        case "uncommitted":
            past.settled(0, past.turn(0), b"two", None, answer())
        case "recalled":
            past = Past(Journal(lives.journal()._log, "r", large_bytes=1))
            past.start()
            assert ask(past, 0, b"one")
    assert not past.due


def test_a_commit_notes_its_round(lives):
    past = lives()
    past.settled(0, 0, b"asked", None, answer())
    past.commit(number=3)
    assert [each.entry.committed.round for each in lives.journal().stored] == [3]


@pytest.fixture
def broken(tmp_path):
    """A life whose journal has this error from now on, and what ends its run."""

    def begin(error):
        log = LocalLog(tmp_path / "broken")
        halt = Halt()
        past = Past(Journal(log, "r"), halt)

        def append(parts):
            log.tried = True
            raise error

        log.tried = False
        log.append = append
        past.settled(0, 0, b"asked", None, answer())
        return past, halt, log

    return begin


def test_what_cannot_be_kept_ends_the_run(broken):
    past, halt, _ = broken(Environment("cannot write it: Input/output error", hint="mend it"))
    with pytest.raises(Halted):
        past.commit()
    assert halt.ending.reason == "Environment"
    assert halt.ending.message == "cannot write it: Input/output error; mend it"
    with pytest.raises(Halted):
        past.tell(lambda: [1])


def test_a_run_that_waits_for_room_hears_when_it_is_ended(broken, monkeypatch):
    monkeypatch.setattr(journals, "_RETRY_S", 300.0)
    past, halt, log = broken(NotNow("there is no room"))
    raised = []

    def commit():
        try:
            past.commit()
        except Halted as error:
            raised.append(str(error))

    thread = threading.Thread(target=commit, daemon=True)
    thread.start()
    while not log.tried:
        pass
    past.settled(1, 0, b"asked", None, answer())  # replies come in meanwhile
    halt.set(Ending(RunEvent.STOPPED, "Stopped", "stopped by SIGINT"))
    thread.join(30)
    assert not thread.is_alive()
    assert raised == ["stopped by SIGINT"]
    assert halt.ending.event is RunEvent.STOPPED


GOES_ON = """
import ctypes, gc, pathlib, sys
from fedkube_server.calls import Answer
from fedkube_server.past import Past
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store import journal as journals
from fedkube.store.journal import Journal
from fedkube.store.logs import LocalLog

def life():
    return Past(Journal(LocalLog(pathlib.Path(sys.argv[1])), "r"))

def kib():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("RssAnon"))

CALLS = [(client, turn) for turn in range(200) for client in range(100)]
outcome = pb.Outcome()
metrics = outcome.content.records.add(name="metrics").metrics
for number in range(8):
    metrics.items.add(key=f"metric-number-{number}", real=number)
past = life()
for client, turn in CALLS:
    past.settled(client, turn, b"asked", None, Answer(outcome, []))
past.commit()
past.close(delete=False)
del past
seen = [kib()]
past = life()
seen.append(kib())
for client, turn in CALLS:
    assert past.recall(client, turn, b"asked", None)
print(*seen, kib())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_recalled_takes_no_memory_any_more(tmp_path):
    """The journal is read whole; a server that goes on for days must not hold it for as long."""
    done = subprocess.run(
        [sys.executable, "-c", GOES_ON, str(tmp_path / "journal")],
        capture_output=True,
        text=True,
        check=True,
    )
    before, read, recalled = map(int, done.stdout.split())
    assert read - before > 10_000, "what was read is seen"
    assert recalled - before < 0.6 * (read - before)

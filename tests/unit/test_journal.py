"""The journal: what is read again after a crash at any byte, and what becomes of a full disk."""

import logging
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkube.core.errors import Environment, Usage
from fedkube.proto.v1 import journal_pb2 as pb
from fedkube.store import journal as journals
from fedkube.store.journal import Journal
from fedkube.store.logs import LocalLog, NotNow


def present(*clients):
    return pb.JournalEntry(present=pb.Present(clients=clients))


def read(path, run="r"):
    journal = Journal(LocalLog(path), run)
    stored = [
        (list(each.entry.present.clients), [bytes(blob) for blob in each.blobs])
        for each in journal.stored
    ]
    journal.close()
    return stored


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


ENTRIES = [((1, 2), [b"abc", b""]), ((), []), ((7,), [b"x" * 200])]


def write(path, entries=ENTRIES):
    journal = Journal(LocalLog(path), "r")
    for clients, blobs in entries:
        journal.append(present(*clients), [memoryview(blob) for blob in blobs])
    journal.close()


def test_what_was_written_is_read_again_and_more_follows(path):
    write(path)
    write(path, [((9,), [b"late"])])
    assert read(path) == [(list(c), b) for c, b in [*ENTRIES, ((9,), [b"late"])]]


def test_arrays_are_aligned(path):
    write(path)
    journal = Journal(LocalLog(path), "r")
    data = path.read_bytes()
    assert all(data.find(bytes(blob)) % 64 == 0 for each in journal.stored for blob in each.blobs)


@given(cut=st.integers(0, 10_000), flip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_crash_at_any_byte_costs_the_last_entry_and_no_other(tmp_path_factory, cut, flip):
    path = tmp_path_factory.mktemp("torn") / "journal"
    ends = []
    write(path, [])
    for entry in ENTRIES:
        write(path, [entry])
        ends.append(path.stat().st_size)
    data = bytearray(path.read_bytes())
    cut %= len(data)
    if cut < 64 + 64:  # the beginning is synced before anything follows
        return
    if flip:
        data[cut] ^= 1
    else:
        del data[cut:]
    path.write_bytes(data)
    whole = [list(c) for (c, _), end in zip(ENTRIES, ends, strict=True) if end <= cut]
    found = [clients for clients, _ in read(path)]
    # A flipped bit in the padding of a message changes nothing.
    assert found[: len(whole)] == whole
    assert len(found) <= len(whole) + (len(ENTRIES) - len(whole)) * flip
    write(path, [((5,), [b"next"])])
    assert read(path)[-1] == ([5], [b"next"])


def test_a_beginning_that_was_torn_is_begun_again(path):
    write(path)
    for size in (0, 10, 64, 100):
        path.write_bytes(path.read_bytes()[:size])
        assert read(path) == []


def test_another_runs_journal_and_another_format(path):
    write(path)
    with pytest.raises(Usage, match="is the journal of run 'r', not of 'other'"):
        Journal(LocalLog(path), "other")
    path.write_bytes(b"FedKube journal 9\n".ljust(64, b"\0"))
    with pytest.raises(Environment, match="no journal that this version of FedKube reads"):
        Journal(LocalLog(path), "r")


def test_beyond_its_limit_it_is_given_up_and_gone(path, caplog):
    journal = Journal(LocalLog(path), "r", limit_bytes=1000)
    journal.append(present(1))
    assert journal.writes
    journal.append(present(2), [memoryview(bytes(2000))])
    assert not journal.writes
    assert not path.exists()
    assert "cannot be resumed from here: it would outgrow its 1,000 bytes" in caplog.text
    journal.append(present(3))
    journal.close()


class Fickle(LocalLog):
    """A log whose next writes have the errors that are given."""

    def __init__(self, path, *errors):
        super().__init__(path)
        self.errors = list(errors)
        self.tried = 0

    def append(self, parts):
        if self._size:
            self.tried += 1
            if self.errors:
                raise self.errors.pop(0)
        super().append(parts)


def test_where_there_is_no_room_the_run_waits_until_there_is(path, caplog):
    caplog.set_level(logging.INFO)
    waits = []
    journal = Journal(
        Fickle(path, *[NotNow("there is no room for it")] * 3),
        "r",
        wait=lambda stopped, seconds: waits.append(seconds),
    )
    journal.append(present(1), [memoryview(b"abc")])
    assert waits == [1.0] * 3
    said = [each.getMessage() for each in caplog.records if each.name == "fedkube.store"]
    assert said == [
        "the run waits: there is no room for it",
        f"the run goes on: {path} could be written",
    ]
    journal.close()
    assert read(path) == [([1], [b"abc"])]


@pytest.mark.parametrize("end", [Journal.stop, Journal.close])
def test_a_run_that_waits_for_room_can_be_ended(path, end, monkeypatch):
    monkeypatch.setattr(journals, "_RETRY_S", 300.0)
    full = Fickle(path, *[NotNow("there is no room for it")] * 1000)
    journal = Journal(full, "r")
    raised = []

    def append():
        try:
            journal.append(present(1))
        except Environment as error:
            raised.append(error.message)

    thread = threading.Thread(target=append, daemon=True)
    thread.start()
    while not full.tried:
        pass
    end(journal)
    thread.join(30)
    assert not thread.is_alive()
    assert raised == ["the run was ended while it waited: there is no room for it"]
    journal.close()
    assert read(path) == []


def test_after_an_error_nothing_can_be_written_any_more(path):
    journal = Journal(Fickle(path, Environment("cannot write it: Input/output error")), "r")
    for clients in (1, 2):
        with pytest.raises(Environment, match="Input/output error"):
            journal.append(present(clients))
    journal.close()
    assert read(path) == []


def test_a_journal_that_cannot_begin(path):
    class Full(LocalLog):
        def append(self, parts):
            raise NotNow("there is no room for it")

    with pytest.raises(Environment, match="the run cannot begin: there is no room for it"):
        Journal(Full(path), "r")
    LocalLog(path).close()


def test_a_journal_that_nobody_wants_any_more(path):
    journal = Journal(LocalLog(path), "r")
    journal.close(delete=True)
    assert not path.exists()


# ------------------------------------------------------------- arrays that are there already


def array(byte, size=5000):
    return memoryview(bytes([byte]) * size)


def test_an_array_that_is_there_is_not_written_again(path):
    journal = Journal(LocalLog(path), "r")
    journal.append(present(1), [array(1), array(2)], {0: b"one", 1: b"two"})
    before = journal.end
    journal.append(present(2), [array(3), array(2), array(1)], {1: b"two", 2: b"one"})
    assert 5000 < journal.end - before < 5500, "the one that is new"
    journal.append(present(3), [array(1)], {0: b"one"})
    journal.append(present(4), [array(1)])
    journal.close()
    assert read(path) == [
        ([1], [bytes(array(1)), bytes(array(2))]),
        ([2], [bytes(array(3)), bytes(array(2)), bytes(array(1))]),
        ([3], [bytes(array(1))]),
        ([4], [bytes(array(1))]),
    ]
    again = Journal(LocalLog(path), "r")
    first = again.stored[0].starts[0]
    assert [each.starts[-1] == first for each in again.stored] == [False, True, True, False]


def test_small_ones_are_and_names_hold_for_one_life(path):
    journal = Journal(LocalLog(path), "r")
    for number in range(2):
        journal.append(present(number), [array(1, 100)], {0: b"small"})
    journal.append(present(3), [array(2)], {0: b"two"})
    journal.close()
    again = Journal(LocalLog(path), "r")
    again.append(present(4), [array(2)], {0: b"two"})
    again.close()
    last = Journal(LocalLog(path), "r").stored
    assert [bytes(each.blobs[0]) for each in last] == [bytes(array(1, 100))] * 2 + [
        bytes(array(2))
    ] * 2
    assert len({each.starts[0] for each in last}) == 4


def test_no_more_names_are_kept_than_there_is_room_for(path, monkeypatch):
    monkeypatch.setattr(journals, "_NAMES", 2)
    journal = Journal(LocalLog(path), "r")

    def grown(number):
        before = journal.end
        journal.append(present(number), [array(number)], {0: b"%d" % number})
        return journal.end - before > 5000

    assert [grown(number) for number in (1, 2, 1, 3, 1, 2)] == [
        True, True, False, True, False, True,
    ]  # fmt: skip
    journal.close()
    found = [blobs for _, blobs in read(path)]
    assert found == [[bytes(array(number))] for number in (1, 2, 1, 3, 1, 2)]


def test_an_entry_that_was_not_written_gives_no_names(path):
    journal = Journal(Fickle(path, NotNow("no room")), "r", wait=lambda stopped, seconds: True)
    with pytest.raises(Environment, match="while it waited"):
        journal.append(present(1), [array(1)], {0: b"one"})
    assert not journal._starts


def test_what_was_condensed_is_there_no_more(path):
    journal = Journal(LocalLog(path), "r", large_bytes=1)
    journal.append(present(1), [array(1)], {0: b"one"})
    keep = journal.end
    journal.append(present(2), [array(1), array(2)], {0: b"one", 1: b"two"})
    assert journal.condense(keep, [(condensed(2), [memoryview(b"abc")])])
    journal.append(present(3), [array(1), array(2)], {0: b"one", 1: b"two"})
    journal.close()
    again = Journal(LocalLog(path), "r")
    assert [bytes(blob) for blob in again.stored[-1].blobs] == [bytes(array(1)), bytes(array(2))]
    assert again.stored[-1].starts[0] == again.stored[0].starts[0]
    assert again.stored[-1].starts[1] > keep


# ------------------------------------------------------------- condensing


def condensed(rounds):
    return pb.JournalEntry(condensed=pb.Condensed(rounds=rounds))


BLOB = memoryview(bytes(5000))


def test_what_is_condensed_gives_way_and_what_was_before_stays(path):
    journal = Journal(LocalLog(path), "r", large_bytes=1)
    assert journal.end == journal.first
    journal.append(present(1), [BLOB])
    keep = journal.end
    for number in (2, 3):
        journal.append(present(number), [BLOB])
    assert journal.condense(keep, [(condensed(2), [memoryview(b"abc")]), (present(9), [])])
    journal.append(present(4))
    assert journal.end == path.stat().st_size
    journal.close()
    again = Journal(LocalLog(path), "r")
    assert [each.entry.WhichOneof("kind") for each in again.stored] == [
        *("present", "condensed", "present", "present"),
    ]
    assert [list(each.entry.present.clients) for each in again.stored] == [[1], [], [9], [4]]
    assert [bytes(blob) for blob in again.stored[1].blobs] == [b"abc"]
    assert again.stored[-1].end == again.end


def test_it_is_large_beyond_its_bytes_and_again_at_twice_what_condensing_left(path):
    journal = Journal(LocalLog(path), "r", large_bytes=12_000)
    seen = []
    for number in range(12):
        journal.append(present(number), [BLOB])
        seen.append(journal.large)
        if journal.large:
            assert journal.condense(journal.first, [(condensed(number), [BLOB, BLOB])])
    # 5 kB for each, and 10 kB are left each time.
    assert seen == [False, False, True, False, False, True] + [False, False, True] * 2
    journal.close()
    again = Journal(LocalLog(path), "r", large_bytes=12_000)
    assert not again.large
    for number in range(3):
        assert not again.large
        again.append(present(number), [BLOB])
    assert again.large


def test_by_default_it_is_large_at_half_of_its_limit_and_without_one_never(path, tmp_path):
    limited = Journal(LocalLog(path), "r", limit_bytes=22_000)
    other = Journal(LocalLog(tmp_path / "other"), "r")
    for number in range(3):
        assert not limited.large
        limited.append(present(number), [BLOB])
        other.append(present(number), [BLOB])
    assert limited.large
    assert not other.large


def test_what_would_not_be_smaller_is_left_and_not_tried_after_every_entry(path):
    journal = Journal(LocalLog(path), "r", large_bytes=1)
    journal.append(present(1))
    before = path.read_bytes()
    assert not journal.condense(journal.first, [(condensed(1), [BLOB])])
    assert path.read_bytes() == before
    assert not journal.large


def test_without_room_it_stays_as_it_is_and_goes_on(path, caplog, monkeypatch):
    journal = Journal(LocalLog(path), "r", large_bytes=1)
    journal.append(present(1), [BLOB])

    def refuse(self, size, parts):
        raise NotNow("there is no room")

    with monkeypatch.context() as full:
        full.setattr(LocalLog, "replace", refuse)
        assert not journal.condense(journal.first, [(condensed(1), [])])
    assert "the journal is not condensed: there is no room" in caplog.text
    journal.append(present(2))
    journal.close()
    assert [clients for clients, _ in read(path)] == [[1], [2]]


def test_after_an_error_nothing_is_written_any_more(path, monkeypatch):
    journal = Journal(LocalLog(path), "r", large_bytes=1)
    journal.append(present(1), [BLOB])

    def refuse(self, size, parts):
        raise Environment("input/output error")

    monkeypatch.setattr(LocalLog, "replace", refuse)
    for _ in range(2):
        with pytest.raises(Environment, match="input/output"):
            journal.condense(journal.first, [(condensed(1), [])])
    with pytest.raises(Environment, match="input/output"):
        journal.append(present(2))


@pytest.mark.parametrize("version", [1, 2])
def test_what_earlier_versions_have_begun_goes_on_without_what_they_do_not_know(path, version):
    write(path)
    data = bytearray(path.read_bytes())
    data[:18] = b"FedKube journal %d\n" % version
    path.write_bytes(data)
    journal = Journal(LocalLog(path), "r")
    for _ in range(2):
        journal.append(present(8), [array(1)], {0: b"one"})
    journal.close()
    stored = Journal(LocalLog(path), "r").stored
    assert not any(each.entry.starts for each in stored)
    assert [bytes(each.blobs[0]) for each in stored[-2:]] == [bytes(array(1))] * 2


def test_a_journal_of_version_1_is_read_and_never_condensed(path):
    """Who wrote it would pass over what it does not know."""
    write(path)
    data = bytearray(path.read_bytes())
    data[:18] = b"FedKube journal 1\n"
    path.write_bytes(data)
    journal = Journal(LocalLog(path), "r", large_bytes=1)
    assert [list(each.entry.present.clients) for each in journal.stored] == [[1, 2], [], [7]]
    assert not journal.large
    journal.append(present(8), [BLOB])
    assert not journal.large
    journal.close()
    assert path.read_bytes().startswith(b"FedKube journal 1\n")

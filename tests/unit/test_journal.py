"""The journal: what is read again after a crash at any byte, and who may write."""

import errno
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkube.core.errors import Environment, Usage
from fedkube.proto.v1 import journal_pb2 as pb
from fedkube.store import journal as module
from fedkube.store.journal import Journal


def present(*clients):
    return pb.JournalEntry(present=pb.Present(clients=clients))


def read(path, run="r"):
    journal = Journal(path, run)
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
    journal = Journal(path, "r")
    for clients, blobs in entries:
        journal.append(present(*clients), [memoryview(blob) for blob in blobs])
    journal.close()


def test_what_was_written_is_read_again_and_more_follows(path):
    write(path)
    write(path, [((9,), [b"late"])])
    assert read(path) == [(list(c), b) for c, b in [*ENTRIES, ((9,), [b"late"])]]


def test_arrays_are_aligned(path):
    write(path)
    journal = Journal(path, "r")
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
        Journal(path, "other")
    path.write_bytes(b"FedKube journal 9\n".ljust(64, b"\0"))
    with pytest.raises(Environment, match="no journal that this version of FedKube reads"):
        Journal(path, "r")


def test_one_process_writes_even_if_it_is_stopped_for_a_while(path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from fedkube.store.journal import Journal;"
            f"j = Journal(pathlib.Path({str(path)!r}), 'r'); print('open', flush=True);"
            "sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(Usage, match="the run is going on"):
        Journal(path, "r")
    holder.kill()
    holder.communicate()
    Journal(path, "r").close()


def test_beyond_its_limit_it_is_given_up_and_gone(path, caplog):
    journal = Journal(path, "r", limit_bytes=1000)
    journal.append(present(1))
    assert journal.writes
    journal.append(present(2), [memoryview(bytes(2000))])
    assert not journal.writes
    assert not path.exists()
    assert "cannot be resumed from here: it would outgrow its 1,000 bytes" in caplog.text
    journal.append(present(3))
    journal.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_disk_that_is_full_costs_the_journal_and_not_the_run(path, monkeypatch, caplog, call):
    journal = Journal(path, "r")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, call, full)
    journal.append(present(1))
    assert not journal.writes
    assert "the disk is full" in caplog.text
    assert not path.exists()


def test_a_journal_that_nobody_wants_any_more(path):
    journal = Journal(path, "r")
    journal.close(delete=True)
    assert not path.exists()

"""What every kind of log owes to a journal, and what a file is for."""

import errno
import os
import subprocess
import sys

import pytest

from fedkube.core.errors import Environment, Usage
from fedkube.store import failpoints, logs
from fedkube.store.journal import Journal
from fedkube.store.logs import LocalLog, NotNow


def parts(*words):
    return [memoryview(word) for word in words]


class Local:
    """A file."""

    def __init__(self, folder):
        self._path = folder / "journal"

    def open(self):
        return LocalLog(self._path)

    def exists(self):
        return self._path.exists()


@pytest.fixture(params=["local"])
def place(request, tmp_path):
    """Where logs of a kind can be: each opening is another process's."""
    return Local(tmp_path)


def content(place):
    log = place.open()
    found = bytes(log.read())
    log.close()
    return found


# ------------------------------------------------------------- all kinds


def test_a_new_log_is_empty(place):
    assert content(place) == b""


def test_what_was_appended_is_read_again_and_more_follows(place):
    log = place.open()
    log.read()
    log.append(parts(b"one", b"", b"two"))
    log.append(parts(b"three"))
    log.close()
    log.close()
    log = place.open()
    assert log.read() == b"onetwothree"
    log.append(parts(b"four"))
    log.close()
    assert content(place) == b"onetwothreefour"


def test_large_parts(place):
    large = os.urandom(9_000_000)
    log = place.open()
    log.read()
    log.append(parts(b"head", large, large[:5]))
    log.close()
    assert content(place) == b"head" + large + large[:5]


@pytest.mark.parametrize("size", [0, 3, 7])
def test_what_is_cut_off_stays_off(place, size):
    log = place.open()
    log.read()
    log.append(parts(b"one"))
    log.append(parts(b"four"))
    log.close()
    log = place.open()
    there = log.read()
    log.cut(size)
    log.append(parts(b"five"))
    assert there[:size] == b"onefour"[:size], "what was read and holds can still be read"
    log.close()
    assert content(place) == b"onefour"[:size] + b"five"


def test_a_log_that_is_deleted_is_gone_and_another_can_begin(place):
    log = place.open()
    log.read()
    log.append(parts(b"old"))
    log.close()
    assert place.exists()
    log.delete()
    assert not place.exists()
    log.delete()
    assert content(place) == b""


def test_a_journal_in_it(place):
    Journal(place.open(), "r").close()
    with pytest.raises(Usage, match="is the journal of run 'r', not of 'other'"):
        Journal(place.open(), "other")
    Journal(place.open(), "r").close()


# ------------------------------------------------------------- files


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def test_one_process_writes_a_file_even_if_it_is_stopped_for_a_while(path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from fedkube.store.logs import LocalLog;"
            f"log = LocalLog(pathlib.Path({str(path)!r})); print('open', flush=True);"
            "sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(Usage, match="the run is going on"):
        LocalLog(path)
    holder.kill()
    holder.communicate()
    LocalLog(path).close()


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(Environment, match="cannot write"):
        LocalLog(tmp_path / "nowhere" / "journal")


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.ENOSPC, NotNow), (errno.EDQUOT, NotNow), (errno.EIO, Environment)],
)
def test_of_what_a_disk_refuses_nothing_is_there(path, monkeypatch, call, number, raised):
    log = LocalLog(path)
    log.append(parts(b"before"))

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as refusing:
        refusing.setattr(logs.os, call, refuse)
        with pytest.raises(raised, match=str(path)):
            log.append(parts(b"one", b"two"))
    assert path.read_bytes() == b"before"
    log.append(parts(b"three"))
    assert path.read_bytes() == b"beforethree"


def test_a_disk_that_is_really_full_and_then_is_not(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("cannot mount a small file system here: this test needs root")
    try:
        log = LocalLog(folder / "journal")
        log.append(parts(b"before"))
        hog = folder / "hog"
        hog.write_bytes(bytes(40 * 1024))
        for _ in range(2):
            with pytest.raises(NotNow, match=r"there is no room for .*/small/journal"):
                log.append(parts(b"x" * 20, bytes(10), bytes(50 * 1024)))
        hog.unlink()
        log.append(parts(b"after"))
        log.close()
        assert (folder / "journal").read_bytes() == b"beforeafter"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_what_a_killed_process_left_unsynced_is_synced_before_it_is_read(path, monkeypatch):
    path.write_bytes(b"not synced")
    synced = []
    sync = os.fsync
    monkeypatch.setattr(logs.os, "fsync", lambda file: (synced.append(file), sync(file)))
    assert LocalLog(path).read() == b"not synced"
    assert len(synced) == 1


def test_the_places_where_tests_have_a_server_die_are_those_of_an_entry(path, monkeypatch):
    places = []
    monkeypatch.setattr(failpoints, "reach", places.append)
    log = LocalLog(path)
    log.append(parts(b"the beginning"))
    assert not places
    log.append(parts(b"one", b"two", b"three"))
    assert places == [f"journal.{step}" for step in ("begun", "torn", "written", "synced")]

"""What every kind of log owes to a journal, and what a file is for."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from fedkube.core.errors import Environment, Superseded, Usage
from fedkube.proto.v1 import journal_pb2 as pb
from fedkube.store import failpoints, logs
from fedkube.store.journal import MAGIC, Journal
from fedkube.store.logs import LocalLog, NotNow
from fedkube.store.object_log import ObjectLog


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


class Memory:
    """Objects in memory. Each opening is another machine's, with a run folder of its own."""

    def __init__(self, folder):
        self._folder = folder
        self.store = MemoryStore()

    def open(self):
        return ObjectLog(self.store, "memory://log", another(self._folder))

    def exists(self):
        return bool(self.store.list().collect())


class S3:
    """Objects on a server that speaks S3."""

    def __init__(self, folder):
        self._folder = folder

    def open(self):
        return ObjectLog.at(URL, another(self._folder))

    def exists(self):
        return ObjectLog.exists(URL)


URL = "s3://bucket/some/journals/r"
KINDS = {"local": Local, "memory": Memory, "s3": S3}


def another(folder):
    return Path(tempfile.mkdtemp(dir=folder))


@pytest.fixture(params=list(KINDS))
def place(request, tmp_path):
    """Where logs of a kind can be: each opening is another process's."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return KINDS[request.param](tmp_path)


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


@pytest.mark.parametrize("size", [0, 3, 7])
def test_what_is_replaced_is_gone_and_more_follows(place, size):
    log = place.open()
    log.read()
    log.append(parts(b"one", b"four"))
    log.replace(size, parts(b"five", b"", b"six"))
    log.append(parts(b"seven"))
    log.close()
    wanted = b"onefour"[:size] + b"fivesixseven"
    assert content(place) == wanted
    log = place.open()
    there = log.read()
    log.replace(5, parts(b"eight"))
    assert there == wanted, "what was read can still be read"
    log.append(parts(b"nine"))
    log.close()
    assert content(place) == wanted[:5] + b"eightnine"


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


def entry(number):
    return pb.JournalEntry(present=pb.Present(clients=[number]))


def journal_of(place):
    journal = Journal(place.open(), "r")
    return journal, [
        (list(each.entry.present.clients), [bytes(blob) for blob in each.blobs])
        for each in journal.stored
    ]


def test_a_journal_goes_on_in_each_life_where_the_one_before_ended(place):
    for life in range(4):
        journal, stored = journal_of(place)
        assert stored == [([number], [b"%d" % number * 100]) for number in range(life)]
        journal.append(entry(life), [memoryview(b"%d" % life * 100)])
        journal.close()
    with pytest.raises(Usage, match="is the journal of run 'r', not of 'other'"):
        Journal(place.open(), "other")


def test_a_torn_end_is_cut_off(place):
    journal, _ = journal_of(place)
    journal.append(entry(1))
    journal.close()
    log = place.open()
    log.read()
    log.append(parts(b"torn by a crash"))
    log.close()
    journal, stored = journal_of(place)
    assert stored == [([1], [])]
    journal.append(entry(2), [memoryview(b"x")])
    journal.close()
    assert journal_of(place)[1] == [([1], []), ([2], [b"x"])]


@pytest.mark.parametrize("left", [0, 10, len(MAGIC), 100])
def test_a_beginning_that_was_torn_is_begun_again(place, left):
    log = place.open()
    log.read()
    log.append(parts((MAGIC + b"x" * 100)[:left]))
    log.close()
    journal, stored = journal_of(place)
    assert stored == []
    journal.append(entry(1))
    journal.close()
    assert journal_of(place)[1] == [([1], [])]


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


@pytest.mark.parametrize("call", ["pwrite", "fsync", "pread"])
@pytest.mark.parametrize(
    ("number", "raised"), [(errno.ENOSPC, NotNow), (errno.EDQUOT, NotNow), (errno.EIO, Environment)]
)
def test_of_a_file_that_cannot_be_replaced_nothing_has_changed(
    path, monkeypatch, call, number, raised
):
    log = LocalLog(path)
    log.append(parts(b"before"))

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as refusing:
        refusing.setattr(logs.os, call, refuse)
        with pytest.raises(raised, match=str(path)):
            log.replace(3, parts(b"one", b"two"))
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]
    log.append(parts(b"three"))
    assert path.read_bytes() == b"beforethree"


def test_a_file_that_was_replaced_is_locked_as_before(path):
    log = LocalLog(path)
    log.append(parts(b"before"))
    log.replace(3, parts(b"after"))
    with pytest.raises(Usage, match="the run is going on"):
        LocalLog(path)
    log.close()
    LocalLog(path).close()


def test_who_opens_a_file_while_it_is_replaced_gets_no_lock_on_what_is_gone(path, monkeypatch):
    """It was opened before its place was taken, and its lock is free after."""
    log = LocalLog(path)
    log.append(parts(b"before"))
    flock, meanwhile = logs.fcntl.flock, [lambda: log.replace(3, parts(b"after"))]

    def lock(file, how):
        if meanwhile and how & logs.fcntl.LOCK_EX:
            meanwhile.pop()()
        flock(file, how)

    monkeypatch.setattr(logs.fcntl, "flock", lock)
    with pytest.raises(Usage, match="the run is going on"):
        LocalLog(path)
    log.close()
    found = LocalLog(path)
    assert found.read() == b"befafter"


def test_what_a_killed_process_was_to_replace_the_file_with_is_gone(path):
    path.write_bytes(b"before")
    (path.parent / ".journal.new").write_bytes(b"half of something that is longer")
    log = LocalLog(path)
    assert list(path.parent.iterdir()) == [path]
    log.replace(6, parts(b"after"))
    assert path.read_bytes() == b"beforeafter"


# ------------------------------------------------------------- objects


@pytest.fixture(params=["memory", "s3"])
def objects(request, tmp_path):
    """Where logs of objects can be."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return KINDS[request.param](tmp_path)


def test_a_server_that_was_thought_dead_can_write_no_more(objects):
    first = objects.open()
    first.read()
    first.append(parts(b"one"))
    second = objects.open()
    assert second.read() == b"one"
    for _ in range(2):
        with pytest.raises(Superseded, match="another server has taken over"):
            first.append(parts(b"late"))
        second.append(parts(b"two"))
    with pytest.raises(Superseded):
        first.cut(0)
    assert content(objects) == b"onetwotwo"
    with pytest.raises(Superseded):
        second.append(parts(b"late as well"))


def test_what_is_written_while_another_opens_it_is_read_by_that_one(objects, monkeypatch):
    """The entry gets in, or its server learns that it was superseded; never neither, nor both."""
    first = objects.open()
    first.read()
    create = ObjectLog._create
    raced = []

    def after_another(log, number, kind, *rest):
        if log is not first and not raced:
            raced.append(number)
            first.append(parts(b"just in time"))
        return create(log, number, kind, *rest)

    monkeypatch.setattr(ObjectLog, "_create", after_another)
    second = objects.open()
    assert raced
    assert second.read() == b"just in time"
    with pytest.raises(Superseded):
        first.append(parts(b"late"))


def sizes(s3):
    return [len(each) - 32 for _, each in sorted(s3.objects.items())]


def test_what_was_condensed_takes_up_no_room(s3, tmp_path):
    log = ObjectLog.at(URL, tmp_path)
    log.read()
    for each in (b"opening", b"one", b"four", b"seven"):
        log.append(parts(each))
    log.replace(7, parts(b"two"))
    log.append(parts(b"eight"))
    log.close()
    assert sizes(s3) == [0, 7, 0, 0, 0, 3, 5], "all are there still, to keep others out"
    log = ObjectLog.at(URL, tmp_path)
    assert log.read() == b"openingtwoeight"
    log.cut(10)
    log.append(parts(b"ten"))
    log.replace(7, parts(b"eleven"))
    log.close()
    assert sizes(s3) == [0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 6]
    log = ObjectLog.at(URL, tmp_path)
    assert log.read() == b"openingeleven"
    log.close()


def test_what_was_condensed_keeps_a_late_server_out(s3, tmp_path):
    first = ObjectLog.at(URL, another(tmp_path))
    first.read()
    first.append(parts(b"one"))
    second = ObjectLog.at(URL, another(tmp_path))
    second.read()
    second.append(parts(b"four"))
    second.replace(0, parts(b"three"))
    second.close()
    with pytest.raises(Superseded):
        first.append(parts(b"late"))
    assert content(S3(tmp_path)) == b"three"


def test_a_server_that_dies_before_it_has_made_room_leaves_that_to_the_next(
    s3, tmp_path, monkeypatch
):
    with monkeypatch.context() as dying:
        dying.setattr(ObjectLog, "_empty", lambda *_: None)
        log = ObjectLog.at(URL, another(tmp_path))
        log.read()
        log.append(parts(b"one"))
        log.append(parts(b"four"))
        log.replace(3, parts(b"two"))
        log.close()
    assert sizes(s3) == [0, 3, 4, 3]
    log = ObjectLog.at(URL, another(tmp_path))
    assert log.read() == b"onetwo"
    log.replace(3, parts(b"six"))
    log.close()
    assert sizes(s3) == [0, 3, 0, 0, 0, 3]
    assert content(S3(tmp_path)) == b"onesix"


def test_a_store_in_which_nothing_may_be_written_twice(s3, tmp_path, caplog):
    log = ObjectLog.at(URL, tmp_path)
    log.read()
    log.append(parts(b"one"))
    s3.locked = True
    log.replace(0, parts(b"two"))
    log.append(parts(b"six"))
    log.close()
    assert "takes up room there until the run has ended" in caplog.text
    assert content(S3(tmp_path)) == b"twosix"


def test_what_is_deleted_is_gone_though_room_was_just_made(s3, tmp_path):
    log = ObjectLog.at(URL, tmp_path)
    log.read()
    for _ in range(20):
        log.append(parts(b"one"))
    log.replace(0, parts(b"two"))
    log.delete()
    log.close()
    assert not s3.objects


def test_two_that_open_it_at_once(objects):
    ones = [objects.open() for _ in range(3)]
    for each in ones[:-1]:
        with pytest.raises(Superseded):
            each.append(parts(b"late"))
    ones[-1].append(parts(b"kept"))
    assert content(objects) == b"kept"


def test_the_run_folder_is_one_processs(s3, tmp_path):
    log = ObjectLog.at(URL, tmp_path)
    with pytest.raises(Usage, match="the run is going on"):
        ObjectLog.at(URL, tmp_path)
    log.append(parts(b"undisturbed"))
    log.close()
    ObjectLog.at(URL, tmp_path).close()


def test_many_objects_keep_their_order(objects):
    log = objects.open()
    log.read()
    words = [b"%d," % number for number in range(30)]
    for word in words:
        log.append(parts(word))
    log.close()
    assert content(objects) == b"".join(words)


def test_an_object_that_somebody_deleted_is_missed(s3, tmp_path):
    log = ObjectLog.at(URL, tmp_path)
    log.append(parts(b"one"))
    log.append(parts(b"two"))
    log.close()
    del s3.objects["bucket/some/journals/r/0000000002"]
    with pytest.raises(Environment, match=f"{URL} lacks the object 0000000002"):
        ObjectLog.at(URL, tmp_path)


def test_an_object_of_another_make(s3, tmp_path):
    s3.objects["bucket/some/journals/r/0000000001"] = b"x" * 100
    log = ObjectLog.at(URL, tmp_path)
    with pytest.raises(Environment, match="0000000001 is no part of a journal"):
        log.read()


def test_a_store_that_overwrites_is_refused(s3, tmp_path):
    s3.overwrites = True
    with pytest.raises(Environment, match="a store that overwrites objects"):
        ObjectLog.at(URL, tmp_path)


def test_an_object_whose_receipt_was_lost_is_written_once(s3, tmp_path):
    log = ObjectLog.at(URL, tmp_path)
    log.read()
    s3.forgets = True
    log.append(parts(b"one"))
    assert not s3.forgets
    log.append(parts(b"two"))
    log.close()
    assert ObjectLog.at(URL, another(tmp_path)).read() == b"onetwo"


def test_a_store_that_is_away_for_a_while_is_waited_for(s3, tmp_path, monkeypatch):
    log = ObjectLog.at(URL, tmp_path)
    log.read()
    s3.down = True
    with pytest.raises(NotNow, match="cannot be written"):
        log.append(parts(b"one"))
    s3.down = False
    log.append(parts(b"one"))
    log.close()
    assert ObjectLog.at(URL, another(tmp_path)).read() == b"one"


def test_a_store_that_lets_nobody_in_any_more(s3, tmp_path):
    log = ObjectLog.at(URL, tmp_path)
    s3.denies = True
    with pytest.raises(Environment, match=f"{URL} cannot be used: "):
        log.append(parts(b"one"))


@pytest.mark.parametrize("trouble", ["down", "denies"])
def test_a_store_that_cannot_be_reached_at_the_beginning(s3, tmp_path, trouble):
    setattr(s3, trouble, True)
    with pytest.raises(Environment, match=f"{URL} cannot be"):
        ObjectLog.at(URL, tmp_path)
    with pytest.raises(Environment, match=f"{URL} cannot be"):
        ObjectLog.exists(URL)
    setattr(s3, trouble, False)
    ObjectLog.at(URL, tmp_path).close()  # the folder is free


def test_nothing_goes_there_unencrypted_unless_it_is_allowed(s3, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(Environment):
        ObjectLog.at(URL, tmp_path)
    assert not s3.objects


def test_the_places_where_tests_have_a_server_die_that_writes_objects(s3, tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr(failpoints, "reach", places.append)
    log = ObjectLog.at(URL, tmp_path)
    log.append(parts(b"the beginning"))
    assert not places
    log.append(parts(b"one", b"two", b"three"))
    assert places == [f"journal.{step}" for step in ("begun", "synced")]

from __future__ import annotations

import errno
import os

import pytest

from fedkube.core.errors import Environment
from fedkube.store import atomic


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def fails(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("content", [b"", b"new", memoryview(b"new")])
def test_a_file_is_replaced(file, content):
    atomic.write(file, content)
    assert file.read_bytes() == bytes(content)
    assert list(file.parent.iterdir()) == [file]


def test_a_file_is_made(tmp_path):
    atomic.write(tmp_path / "new", b"x")
    assert (tmp_path / "new").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(file, monkeypatch, number):
    monkeypatch.setattr(atomic.os, "fsync", fails(number))
    with pytest.raises(Environment, match="the disk is full: cannot write") as raised:
        atomic.write(file, b"new")
    assert "--out" in raised.value.hint
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file], "the half-written file is gone"


def test_a_disk_that_is_really_full(file, monkeypatch):
    """/dev/full behaves as a full disk does: writing fails and not opening."""
    opened = open
    monkeypatch.setattr(atomic, "open", lambda path, mode: opened("/dev/full", mode), raising=False)
    with pytest.raises(Environment, match="the disk is full"):
        atomic.write(file, b"new" * 100_000)
    assert file.read_bytes() == b"old"


def test_another_error_is_said_as_it_is(file, monkeypatch):
    monkeypatch.setattr(atomic.os, "fsync", fails(errno.EIO))
    with pytest.raises(Environment, match=r"cannot write .*file: Input/output error"):
        atomic.write(file, b"new")
    assert file.read_bytes() == b"old"


def test_an_error_of_the_last_step_leaves_the_old_file(file, monkeypatch):
    monkeypatch.setattr(atomic.os, "replace", fails(errno.EACCES))
    with pytest.raises(Environment, match="Permission denied"):
        atomic.write(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(Environment, match="No such file or directory"):
        atomic.write(tmp_path / "gone" / "file", b"x")


def test_bytes_are_on_disk_before_the_file_takes_its_name(file, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(
        atomic.os, "replace", lambda a, b: (events.append("replace"), replace(a, b))
    )
    atomic.write(file, b"new")
    assert events == ["fsync", "replace", "fsync"], "the file, its name, the folder"


def test_while_it_is_written_a_reader_sees_the_old_file(file, monkeypatch):
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: (seen.append(file.read_bytes()), fsync(fd)))
    atomic.write(file, b"new")
    assert seen == [b"old", b"new"]

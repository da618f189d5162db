"""Files written in sequence: the same bytes, whether past the page cache or through it."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkube.store import writing

PIECE = 3 * 4096


@pytest.fixture
def file(tmp_path):
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield file
    os.close(file)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(writing, "PIECE_BYTES", PIECE)


def content(file):
    return os.pread(file, os.fstat(file).st_size, 0)


def some(nbytes, seed=1):
    return bytes((seed * 31 + place * 7) % 251 for place in range(nbytes))


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    before=st.integers(0, 9_000),
    sizes=st.lists(st.one_of(st.integers(0, 200), st.integers(0, 30_000)), max_size=6),
)
def test_what_is_written_is_there_and_what_was_there_stays(small_pieces, file, before, sizes):
    os.ftruncate(file, 0)
    parts = [some(size, number) for number, size in enumerate(sizes)]
    end = writing.write(file, [some(before)])
    assert end == before
    assert writing.write(file, parts, before) == before + sum(sizes)
    assert content(file) == some(before) + b"".join(parts)


@pytest.fixture
def writes(monkeypatch):
    """Offset, bytes and whether they went past the page cache, of each write."""
    pwrite, seen = os.pwrite, []

    def watched(file, data, offset):
        direct = bool(fcntl.fcntl(file, fcntl.F_GETFL) & writing._DIRECT)
        seen.append((offset, len(data), direct))
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", watched)
    return seen


def goes_past(file):
    if not writing._DIRECT:
        return False
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | writing._DIRECT)
    except OSError:
        return False
    fcntl.fcntl(file, fcntl.F_SETFL, flags)
    return True


def test_whole_blocks_of_what_is_large_go_past_the_page_cache(small_pieces, file, writes):
    if not goes_past(file):
        pytest.skip("this file system has no such writes")
    writing.write(file, [some(100)])
    end = writing.write(file, [some(2 * PIECE + 500)], 100)
    assert content(file)[100:] == some(2 * PIECE + 500)
    assert [each for each in writes if each[2]] == [
        (4096, PIECE - 4096, True),
        (PIECE, PIECE, True),
    ]
    assert (100, 3996, False) in writes
    assert (2 * PIECE, 600, False) in writes
    assert end == 2 * PIECE + 600
    assert not fcntl.fcntl(file, fcntl.F_GETFL) & writing._DIRECT, "nobody else's writes do"


def test_what_is_little_is_one_ordinary_write(file, writes):
    writing.write(file, [some(100), some(5000)], 10)
    assert writes == [(10, 5100, False)]


def test_where_there_are_no_such_writes_it_goes_through_the_page_cache(
    small_pieces, file, monkeypatch
):
    real = fcntl.fcntl

    def refuses(file, command, *more):
        if command == fcntl.F_SETFL and more[0] & writing._DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(file, command, *more)

    monkeypatch.setattr(fcntl, "fcntl", refuses)
    writing.write(file, [some(5 * PIECE + 7)], 3)
    assert content(file) == bytes(3) + some(5 * PIECE + 7)


@pytest.mark.parametrize("others", ["no O_DIRECT", "larger blocks"])
def test_another_system_or_disk(small_pieces, file, monkeypatch, others):
    if others == "no O_DIRECT":
        monkeypatch.setattr(writing, "_DIRECT", 0)
    else:
        real = os.pwrite

        def picky(file, data, offset):
            if fcntl.fcntl(file, fcntl.F_GETFL) & writing._DIRECT and offset % 65536:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(file, data, offset)

        monkeypatch.setattr(os, "pwrite", picky)
    writing.write(file, [some(20 * PIECE + 7)])
    assert content(file) == some(20 * PIECE + 7)


def test_a_disk_that_takes_a_little_at_a_time(small_pieces, file, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: real(file, data[:1000], offset))
    writing.write(file, [some(5 * PIECE + 7)], 3)
    assert content(file)[3:] == some(5 * PIECE + 7)


@pytest.mark.parametrize("nbytes", [100, 10 * PIECE])
def test_a_disk_that_is_full(small_pieces, file, monkeypatch, nbytes):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        writing.write(file, [some(nbytes)])
    assert not fcntl.fcntl(file, fcntl.F_GETFL) & writing._DIRECT

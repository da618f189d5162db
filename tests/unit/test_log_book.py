from __future__ import annotations

import asyncio
import errno
import re

import pytest

from fedkube.local import logs
from fedkube.local.logs import LogBook


@pytest.fixture
def shown():
    return []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.txt"


@pytest.fixture
def book(path, shown):
    book = LogBook(path, lambda source, line: shown.append((source, line)))
    yield book
    book.close()


def follow(book, *chunks):
    async def run():
        stream = asyncio.StreamReader()
        for chunk in chunks:
            stream.feed_data(chunk)
        stream.feed_eof()
        await book.follow("worker-0", stream)

    asyncio.run(run())


def test_a_line_is_written_with_its_time_and_source(book, path, shown):
    book.write("server", "hello")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6} server    hello\n", path.read_text())
    assert shown == [("server", "hello")]


def test_a_line_is_on_disk_at_once(book, path):
    book.write("server", "one")
    assert "one" in path.read_text()


def test_colours_and_line_ends_are_taken_off(book, shown):
    book.write("server", "\x1b[1;31mred\x1b[0m \x1b[2Kand \x1b[?25lmore\r\n")
    assert shown == [("server", "red and more")]


def test_a_log_goes_on_where_it_was(path, shown):
    for line in ("one", "two"):
        book = LogBook(path, lambda *_: None)
        book.write("x", line)
        book.close()
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "two"]


def test_lines_are_put_together_from_pieces(book, shown):
    follow(book, b"on", b"e\ntw", b"o\n\nthree")
    assert [line for _, line in shown] == ["one", "two", "", "three"]


def test_bytes_that_are_no_utf8_are_shown_as_such(book, shown):
    follow(book, b"caf\xe9\n")
    assert shown == [("worker-0", "caf\ufffd")]


def test_a_letter_that_is_cut_between_two_pieces_is_whole(book, shown):
    text = "é".encode()
    follow(book, text[:1], text[1:] + b"\n")
    assert shown == [("worker-0", "é")]


def test_a_line_without_an_end_is_cut(book, shown, monkeypatch):
    monkeypatch.setattr(logs, "_MAX_LINE", 10)
    follow(book, b"x" * 35)
    assert "".join(line for _, line in shown) == "x" * 35
    assert max(len(line) for _, line in shown) <= 20


class FullFile:
    """A file on a disk that is full, but for as many bytes as there is ``room``."""

    room = 0

    def __init__(self):
        self.written = b""

    def write(self, data):
        count = min(self.room, len(data))
        if not count:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= count
        self.written += data[:count]
        return count

    def close(self):
        pass


@pytest.fixture
def full(book):
    book._file.close()
    book._file = FullFile()
    return book._file


def test_lines_wait_for_room_on_the_disk(book, full, shown):
    for line in ("one", "two"):
        book.write("server", line)
    assert book.trouble is None
    full.room = 20
    book.write("server", "three")
    full.room = 1000
    book.write("server", "four")
    words = [line.split()[-1] for line in full.written.decode().splitlines()]
    assert words == ["one", "two", "three", "four"]
    assert [line for _, line in shown] == words, "they are shown at once"
    book.close()
    assert book.trouble is None


def test_lines_that_have_found_no_room_at_the_end_are_told_of(book, full, shown):
    book.write("server", "one")
    book.close()
    assert "the disk is full" in book.trouble.message


def test_a_log_that_cannot_be_written_is_said_once_and_lines_are_still_shown(book, full, shown):
    for number in range(1_002):
        book.write("server", f"{number}")
    trouble = book.trouble
    assert "the disk is full" in trouble.message
    book.write("server", "late")
    book.close()
    assert book.trouble is trouble
    assert len(shown) == 1_003


def test_a_log_that_can_be_written_is_no_trouble(book):
    book.write("server", "one")
    assert book.trouble is None

"""A run's two histories, ``history.json`` and ``history.csv``: a line for each round.

Nothing of them is held in memory. A round is put in by copying the files line by line, so that each
is replaced in one step and a run of a million rounds needs no more memory than one of ten.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from fedkube.store.history import Round, from_json, to_json, to_row

JSON = "history.json"
CSV = "history.csv"

_ROUND = re.compile(rb' *(\{"round": (\d+),.*\}),?\n')
_HEAD = 3  # lines before the rounds

T = TypeVar("T")
Read = Callable[[str], Iterable[bytes]]
Write = Callable[[str, Iterable[bytes]], None]


class Histories:
    """Reads and writes both.

    ``read``: a file's lines by its name, none where there is no such file. ``write``: replaces a
    file by its name; it may raise Environment, with the old one untouched.
    """

    def __init__(self, run_id: str, read: Read, write: Write) -> None:
        self._run_id = run_id
        self._read = read
        self._write = write
        self._agree = False  # as far as is known; who was killed may have written one of the two

    def rounds(self) -> Iterator[Round]:
        """The rounds that are written down, first to last, read one at a time."""
        return rounds_in(self._read(JSON))

    def find(self, number: int) -> Round | None:
        """A round that is written down, or None."""
        lines = (line for each, line in _numbered(self._read(JSON)) if each == number)
        return next((from_json(json.loads(line)) for line in lines), None)

    def begin(self, rounds: Iterable[Round]) -> None:
        """These and no others."""
        self._agree = False
        self._write(JSON, self._json(to_json(each).encode() for each in rounds))
        self._write_table()

    def put(self, rounds: Sequence[Round]) -> None:
        """Put rounds in, one at least, for those that have their numbers; later ones are no more.

        A reader may see ``history.json`` with them and ``history.csv`` without.
        """
        agreed, self._agree = self._agree, False
        lines = {each.round: to_json(each).encode() for each in rounds}
        self._write(JSON, self._json(_merged(_numbered(self._read(JSON)), lines)))
        rows = {each.round: to_row(each) for each in rounds}
        old = self._table()
        columns = next(old, [])
        if not agreed or any(row.keys() - set(columns) for row in rows.values()):
            self._write_table()
            return
        new = {
            number: [str(row.get(column, "")) for column in columns] for number, row in rows.items()
        }
        merged = _merged(((int(row[0]), row) for row in old), new)
        self._write(CSV, _csv(itertools.chain([columns], merged)))
        self._agree = True

    def mend(self) -> None:
        """Have the table say what the other file does, if it may not."""
        if not self._agree:
            self._write_table()

    # ------------------------------------------------------------- history.json

    def _json(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        yield f'{{\n "run_id": {json.dumps(self._run_id)},\n "rounds": [\n'.encode()
        separator = b"  "
        for line in lines:
            yield separator + line
            separator = b",\n  "
        yield b"\n ]\n}\n"

    # ------------------------------------------------------------- history.csv

    def _table(self) -> Iterator[list[str]]:
        return csv.reader(line.decode() for line in self._read(CSV))

    def _write_table(self) -> None:
        """The whole table, which has a column for whatever any round has."""
        columns: dict[str, None] = {}
        for each in self.rounds():
            columns |= dict.fromkeys(to_row(each))
        first = ["round", "seconds"]
        header = [*first, *sorted(columns.keys() - set(first))]
        rows = (to_row(each) for each in self.rounds())
        table = ([str(row.get(column, "")) for column in header] for row in rows)
        self._write(CSV, _csv(itertools.chain([header], table)))
        self._agree = True


def rounds_in(lines: Iterable[bytes]) -> Iterator[Round]:
    """The rounds of a ``history.json``, read one at a time."""
    return (from_json(json.loads(line)) for _, line in _numbered(lines))


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The rounds' numbers and lines; of a file that is laid out otherwise, these are made."""
    rest = iter(lines)
    head = list(itertools.islice(rest, _HEAD))
    if head and (head[0], head[-1]) != (b"{\n", b' "rounds": [\n'):
        for body in json.loads(b"".join([*head, *rest]))["rounds"]:
            yield body["round"], json.dumps(body).encode()
    for line in rest:
        if (match := _ROUND.fullmatch(line)) is not None:
            yield int(match[2]), match[1]


def _csv(rows: Iterable[Sequence[str]]) -> Iterator[bytes]:
    for row in rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        yield text.getvalue().encode()


def _merged(old: Iterable[tuple[int, T]], new: Mapping[int, T]) -> Iterator[T]:
    """Both in the order of their numbers; of the old, what the new neither have nor end before."""
    waiting = sorted(new)
    last = waiting[-1]
    for number, each in old:
        if number > last:
            break
        while waiting and waiting[0] <= number:
            yield new[waiting.pop(0)]
        if number not in new:
            yield each
    for number in waiting:
        yield new[number]

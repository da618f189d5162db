"""The beginning of a run's journal, as another run's past."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedkube.proto.v1 import journal_pb2 as pb
from fedkube.store.journal import Journal, Stored


def holding(stored: Iterable[Stored]) -> list[Stored]:
    """The commits and tellings that hold, without what an app that took another way made void."""
    found: list[Stored] = []
    for each in stored:
        match each.entry.WhichOneof("kind"):
            case "turned":
                found = _after(each.entry.turned, found)
            case "committed" | "present" | "condensed":
                found.append(each)
    return found


def condensed_round(held: Iterable[Stored]) -> int:
    """The last round that was condensed; 0 where none was. Those before it cannot be forked."""
    return max((each.entry.condensed.round for each in held), default=0)


def last_round(held: Iterable[Stored]) -> int:
    """The newest round that anything was committed in; 0 where it was not noted."""
    return max(
        (max(each.entry.committed.round, each.entry.condensed.round) for each in held), default=0
    )


def first_rounds(held: Iterable[Stored], last: int) -> list[Stored]:
    """What belongs to the rounds up to the ``last``."""
    found: list[Stored] = []
    told: list[Stored] = []  # since the last commit: of a round that follows, perhaps
    for each in held:
        if each.entry.HasField("present"):
            told.append(each)
        elif max(each.entry.committed.round, each.entry.condensed.round) > last:
            break
        else:
            found += [*told, each]
            told = []
    return found


def begin(journal: Journal, past: Iterable[Stored], run: str, number: int) -> None:
    """Write another run's past into a new journal. ``run``: whose rounds up to ``number`` it is."""
    for each in past:
        # What begins at one place there is written once here, too.
        names = {index: b"%d" % start for index, start in enumerate(each.starts)}
        journal.append(each.entry, each.blobs, names)
    journal.append(pb.JournalEntry(forked=pb.Forked(run=run, round=number)))


def _after(turned: pb.Turned, stored: list[Stored]) -> list[Stored]:
    turns = dict(enumerate(turned.turns))
    told = 0
    found = []
    for each in stored:
        if each.entry.HasField("present"):
            if told < turned.presents:
                found.append(each)
            told += 1
            continue
        if each.entry.HasField("condensed"):
            condensed = each.entry.condensed
            told = condensed.presents
            if told <= turned.presents and all(
                over <= turns.get(client, 0) for client, over in enumerate(condensed.turns)
            ):
                found.append(each)
            continue
        entry = pb.JournalEntry()
        entry.CopyFrom(each.entry)
        del entry.committed.calls[:]
        entry.committed.calls.extend(
            call for call in each.entry.committed.calls if call.turn < turns.get(call.client, 0)
        )
        if entry.committed.calls:
            found.append(replace(each, entry=entry))
    return found

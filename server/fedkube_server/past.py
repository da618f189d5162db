"""What a run has acknowledged, so that a server that takes another's place need not ask again.

The app is run again from its beginning. The messages that it sends are those that it sent before,
since all that it draws comes from the run's seed; as long as that is so, the replies that are in
the journal are given to it at once. After the last of them the run goes on with its clients.

Of a strategy's rounds that were condensed there are no replies any more, but what they came to.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedkube.core.errors import AppInvalid, FedKubeError
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import journal_pb2 as journal
from fedkube.store.journal import Journal
from fedkube.wire import contents, tensors
from fedkube_server.calls import Answer, ClientState, Ending
from fedkube_server.folds import Array, Fold
from fedkube_server.halt import Ending as RunEnding
from fedkube_server.halt import Halt

log = logging.getLogger("fedkube.server")


@dataclass(slots=True)
class _Place:
    """Where an entry ends, and what is needed of it when it has been recalled: not the entry.

    ``calls``: of a commit, those that hold. ``left``: those that are still to be recalled.
    ``telling``: its number. ``start``: of what was condensed, with the tellings before it.
    """

    end: int
    calls: int = 0
    left: int = 0
    telling: int | None = None
    start: int | None = None

    @property
    def holds(self) -> bool:
        """Whether anything of it matters: not of a commit that an app has made void."""
        return self.calls > 0 or self.telling is not None or self.start is not None


@dataclass(slots=True)
class _Commit:
    """What was committed together.

    ``late``: updates of earlier phases that came in this one, or were too old for it. ``begun``:
    the app has made some of its calls again. ``forked``: by another run, so that these are its
    replies whatever is asked.
    """

    place: _Place
    mean: journal.Mean | None
    blobs: Sequence[memoryview]
    late: list[journal.Ended] = field(default_factory=list)
    begun: bool = False
    forked: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    """A call that an earlier life has committed."""

    ended: journal.Ended
    commit: _Commit

    def holds(self, asked: bytes, *, summed: bool) -> bool:
        """Whether this is the outcome of what is asked now."""
        as_then = self.commit.forked or self.ended.asked == asked
        return as_then and (self.commit.mean is not None) is summed


@dataclass(frozen=True, slots=True)
class Condensed:
    """What rounds have come to. ``clients``: what each keeps, as an answer that has nothing else.

    ``state``: pickled, with its buffers.
    """

    entry: journal.Condensed
    state: tuple[bytes, list[memoryview]]
    clients: dict[int, Answer]


@dataclass(slots=True)
class _Pending:
    """Calls that are over and are to be committed together: the entry that says so.

    ``digests``: of the blobs, where they are known.
    """

    entry: journal.JournalEntry = field(default_factory=journal.JournalEntry)
    blobs: list[memoryview] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)


class Past:
    """Recalls what earlier lives of the server have committed, and commits what this one does.

    Safe to use from several threads.

    ``stored``: nothing is recalled or kept where this is None. ``halt``: the run ends by this where
    something cannot be kept, and a wait for room ends when it is set.
    """

    def __init__(self, stored: Journal | None = None, halt: Halt | None = None) -> None:
        self._journal = stored
        self._halt = halt or Halt()
        self._lock = threading.Lock()
        # Held, before the other, while an entry is written. That may take long: replies come in.
        self._writing = threading.Lock()
        self._kept: dict[tuple[int, int], _Kept] = {}
        self._presents: dict[int, list[int]] = {}  # by their number
        self._turns: Counter[int] = Counter()  # messages of each client that are over
        self._sent: Counter[int] = Counter()  # messages of each client
        self._told = 0
        self._condensed: dict[int, Condensed] = {}  # by the strategy's start
        self._forked: journal.JournalEntry | None = None
        self._places: list[_Place] = []  # of what was there when the journal was opened
        self._starts = 0
        self._asked = False  # whether anybody was asked since a message was recalled
        self._since: int | None = None  # where what the newest strategy has committed begins
        self._pending: dict[Fold | None, _Pending] = {}
        self._late: dict[Fold, _Commit] = {}  # with what came late, by the sum that has it
        number = 0  # of the next telling
        for each in stored.stored if stored is not None else ():
            place = _Place(each.end)
            self._places.append(place)
            number = self._take_in(each.entry, each.blobs, place, number)
        if stored is not None:
            stored.stored = []
            self._halt.on_set(stored.stop)

    def _take_in(
        self,
        entry: journal.JournalEntry,
        blobs: Sequence[memoryview],
        place: _Place,
        number: int,
    ) -> int:
        """``number``: of the next telling of who is there; the one after it."""
        match entry.WhichOneof("kind"):
            case "committed":
                mean = entry.committed.mean if entry.committed.HasField("mean") else None
                commit = _Commit(place, mean, blobs)
                for ended in entry.committed.calls:
                    if ended.HasField("late"):
                        commit.late.append(ended)
                    else:
                        self._kept[ended.client, ended.turn] = _Kept(ended, commit)
                place.calls = place.left = len(entry.committed.calls) - len(commit.late)
            case "present":
                self._presents[number] = list(entry.present.clients)
                place.telling = number
                return number + 1
            case "turned":
                turned = entry.turned
                self._void(lambda client: _of(turned.turns, client), turned.presents)
                return turned.presents
            case "forked":
                self._forked = entry
                for kept in self._kept.values():
                    kept.commit.forked = True
            case "condensed":
                place.start = entry.condensed.start
                self._condensed[entry.condensed.start] = _condensed(entry.condensed, blobs)
                return entry.condensed.presents
        return number

    def _void(self, turns: Callable[[int], int], presents: int) -> None:
        """Of each client, only so many messages hold, and so many tellings."""
        for (client, turn), kept in list(self._kept.items()):
            if turn >= turns(client):
                del self._kept[client, turn]
                kept.commit.place.calls -= 1
                kept.commit.place.left -= 1
        self._presents = {
            number: clients for number, clients in self._presents.items() if number < presents
        }
        self._condensed = {
            start: each
            for start, each in self._condensed.items()
            if each.entry.presents <= presents
            and all(over <= turns(client) for client, over in enumerate(each.entry.turns))
        }

    @property
    def keeps(self) -> bool:
        """Whether anything that happens now is kept."""
        return self._journal is not None and self._journal.writes

    @property
    def left(self) -> int:
        """How many calls can still be recalled."""
        return len(self._kept)

    @property
    def condensed(self) -> int:
        """How many rounds the journal has only the outcome of."""
        return max((each.entry.round for each in self._condensed.values()), default=0)

    def turn(self, client: int) -> int:
        """The number of the message that is being sent to a client, from 0."""
        with self._lock:
            self._sent[client] += 1
            return self._sent[client] - 1

    # ------------------------------------------------------------- what was

    def recall(self, client: int, turn: int, asked: bytes, fold: Fold | None) -> Ending | None:
        """How this message to a client ended in an earlier life, or None: it has to be sent.

        ``asked``: the message's digest. ``fold``: where updates are summed; the sum of those that
        are recalled is in it then. AppInvalid where the app does what cannot follow upon what is
        committed.
        """
        with self._lock:
            kept = self._kept.get((client, turn))
            if kept is None and not self._is_condensed(client, turn):
                return None
            if kept is not None and kept.holds(asked, summed=fold is not None):
                return self._recalled(kept, fold)
        with self._writing:
            with self._lock:
                turned = self._turn(f"message {turn + 1} to client {client} is another than it was")
            self._append(turned)
        return None

    def _is_condensed(self, client: int, turn: int) -> bool:
        """Whether a message of this number was one of rounds that are still to be passed over."""
        return bool(self._condensed) and any(
            turn < _of(each.entry.turns, client)
            for start, each in self._condensed.items()
            if start >= self._starts
        )

    def _recalled(self, kept: _Kept, fold: Fold | None) -> Ending:
        ended, commit = kept.ended, kept.commit
        self._asked = False
        del self._kept[ended.client, ended.turn]
        self._turns[ended.client] = ended.turn + 1
        if fold is not None and commit.mean is not None and not fold.weights:
            fold.restore(_arrays(commit), list(commit.mean.weights))
            if commit.late:
                self._late[fold] = commit
        commit.place.left -= 1
        commit.begun = True
        if ended.outcome.HasField("failure"):
            return ended.outcome.failure
        return Answer(ended.outcome, commit.blobs)

    def recall_late(self, fold: Fold) -> list[tuple[journal.Ended, Answer]]:
        """The late updates that came with this sum, where it was recalled."""
        with self._lock:
            commit = self._late.pop(fold, None)
            if commit is None:
                return []
            return [(ended, Answer(ended.outcome, commit.blobs)) for ended in commit.late]

    def tell(self, present: Callable[[], list[int]]) -> list[int]:
        """The clients that are there: as the app was told before, or else as it is now."""
        with self._lock:
            number, self._told = self._told, self._told + 1
            if (told := self._presents.pop(number, None)) is not None:
                return told
        clients = present()
        self._append(journal.JournalEntry(present=journal.Present(clients=clients)))
        return clients

    def _turn(self, why: str) -> journal.JournalEntry:
        """Forget what does not hold any more; the entry that says so."""
        if any(kept.commit.mean is not None and kept.commit.begun for kept in self._kept.values()):
            # Half of a sum that was committed is in use, and cannot be told from the other half.
            raise AppInvalid(
                f"the run cannot be resumed: {why}, in the middle of a round that is committed",
                hint="restore the app to what it was, or begin a new run",
            )
        log.warning(
            "the app does not do what it did before: %s. What followed there is void, and the run "
            "goes on from here",
            why,
        )
        turns = self._over()
        self._void(lambda client: _of(turns, client), self._told)
        self._since = None
        return journal.JournalEntry(turned=journal.Turned(turns=turns, presents=self._told))

    def _over(self) -> list[int]:
        """Of each client, how many messages are over."""
        return [self._turns[client] for client in range(max(self._turns, default=-1) + 1)]

    # ------------------------------------------------------------- what rounds came to

    def start(self) -> Condensed | None:
        """A strategy of the app's begins: what its first rounds came to in an earlier life."""
        with self._lock:
            number, self._starts = self._starts, self._starts + 1
            found = self._condensed.get(number)
            self._since = self._begins(number)
            return found

    def _begins(self, start: int) -> int | None:
        """Where what this strategy has committed begins; None where that cannot be told."""
        if self._journal is None:
            return None
        first: int | None = None  # where the first entry begins that is to be recalled yet
        begin = self._journal.first
        for place in self._places:
            if 0 < place.left < place.calls:
                return None
            if self._is_ahead(place, start):
                first = begin if first is None else first
            elif first is not None and place.holds:
                return None
            begin = place.end
        return self._journal.end if first is None else first

    def _is_ahead(self, place: _Place, start: int) -> bool:
        if place.telling is not None:
            return place.telling >= self._told
        return place.left > 0 or (place.start is not None and place.start >= start)

    @property
    def starts(self) -> int:
        """How many strategies have begun."""
        return self._starts

    def forward(self, condensed: Condensed) -> None:
        """The rounds are behind, as if their messages had been recalled."""
        with self._lock:
            self._turns = Counter(dict(enumerate(condensed.entry.turns)))
            self._sent = Counter(self._turns)
            self._told = condensed.entry.presents
            self._asked = False

    @property
    def due(self) -> bool:
        """Whether the rounds that have ended should be condensed, and can be now.

        Not as long as what was recalled may still be on its way to whoever keeps clients' states.
        """
        with self._lock:
            return (
                self._journal is not None
                and self._journal.large
                and self._since is not None
                and not self._kept
                and self._asked
                and not any(each.entry.committed.calls for each in self._pending.values())
                and self._sent == self._turns
            )

    def condense(
        self,
        entry: journal.Condensed,
        state: tuple[bytes, Sequence[memoryview]],
        clients: Mapping[int, ClientState],
    ) -> bool:
        """Leave out what the newest strategy has committed, for what it has come to.

        ``entry``: its rounds. ``state``: pickled, with its buffers. ``clients``: what each keeps.
        False where there is no room for that now.
        """
        if self._journal is None or self._since is None:
            return False
        pickled, buffers = state
        blobs = list(buffers)
        entry.state, entry.buffers, entry.start = pickled, len(blobs), self._starts - 1
        for client, each in sorted(clients.items()):
            kept = entry.clients.add(client=client, state=each.content)
            contents.renumber(kept.state, len(blobs).__add__)
            blobs += [blob.data for blob in each.blobs]
        with self._lock:
            entry.turns[:] = self._over()
            entry.presents = self._told
        condensed = journal.JournalEntry(condensed=entry)
        forked = [] if self._forked is None else [(self._forked, ())]
        with self._writing:
            try:
                return self._journal.condense(self._since, [*forked, (condensed, blobs)])
            except FedKubeError as error:
                self._halt.set(RunEnding.of(error))
        self._halt.check()
        return False

    # ------------------------------------------------------------- what is

    def settled(
        self,
        client: int,
        turn: int,
        asked: bytes,
        fold: Fold | None,
        outcome: Ending,
        late: journal.Late | None = None,
    ) -> None:
        """A message to a client is over, and goes into the next commit.

        ``late``: its own phase was over before, and this is the update that has come since.
        """
        if not self.keeps:
            return
        with self._lock:
            self._asked = True
            self._turns[client] = max(self._turns[client], turn + 1)
            pending = self._pending.get(fold)
            if pending is None:
                pending = self._pending[fold] = _Pending()
            ended = pending.entry.committed.calls.add(
                client=client, turn=turn, asked=asked, late=late
            )
            if isinstance(outcome, Answer):
                _copy(outcome, ended.outcome, pending, summed=fold is not None)
            else:
                ended.outcome.failure.CopyFrom(outcome)

    def commit(self, fold: Fold | None = None, number: int = 0) -> None:
        """Put on the disk what is over; only then may anybody act upon it.

        ``fold``: the sum of the updates that are over; its mean is taken. ``number``: of the round.
        """
        if self._journal is None:
            return
        with self._writing:
            with self._lock:
                groups = {each: self._pending.pop(each, None) for each in {None, fold}}
            for summed, pending in groups.items():
                if pending is None or (summed is not None and not summed.weights):
                    continue
                entry = pending.entry
                entry.committed.round = number
                if summed is not None:
                    mean = entry.committed.mean
                    mean.weights.extend(summed.weights)
                    for name, values in summed.mean().items():
                        item = mean.arrays.items.add(
                            name=name, dtype=values.dtype.name, blob=len(pending.blobs)
                        )
                        item.shape.extend(values.shape)
                        if name in summed.unchanged:
                            pending.digests[len(pending.blobs)] = summed.unchanged[name]
                        flat = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
                        pending.blobs.append(flat.reshape(-1).view(np.uint8).data)
                self._append(entry, pending.blobs, pending.digests)

    def _append(
        self,
        entry: journal.JournalEntry,
        blobs: Sequence[memoryview] = (),
        digests: Mapping[int, bytes] | None = None,
    ) -> None:
        """Keep an entry, or end the run: an app that catches errors must not go on without."""
        if self._journal is None:
            return
        try:
            self._journal.append(entry, blobs, digests)
        except FedKubeError as error:
            self._halt.set(RunEnding.of(error))
            self._halt.check()

    def close(self, *, delete: bool) -> None:
        """The run is over. ``delete``: nobody will resume or fork it."""
        if self._journal is not None:
            self._journal.close(delete=delete)


def _of(turns: Sequence[int], client: int) -> int:
    return turns[client] if client < len(turns) else 0


def _condensed(entry: journal.Condensed, blobs: Sequence[memoryview]) -> Condensed:
    clients = {
        each.client: Answer(pb.Outcome(state=each.state), list(blobs)) for each in entry.clients
    }
    return Condensed(entry, (entry.state, list(blobs[: entry.buffers])), clients)


def _arrays(commit: _Commit) -> dict[str, Array]:
    """The mean, as arrays that a strategy may change."""
    assert commit.mean is not None
    return {
        item.name: tensors.view(commit.blobs[item.blob], item.dtype, item.shape).copy()
        for item in commit.mean.arrays.items
    }


def _copy(answer: Answer, into: pb.Outcome, pending: _Pending, *, summed: bool) -> None:
    """What is needed of a reply, its arrays left out where they are summed, and its bytes."""
    into.CopyFrom(answer.outcome)
    numbers: dict[int, int] = {}

    def number(old: int) -> int:
        if old not in numbers:
            numbers[old] = len(pending.blobs)
            if old < len(answer.digests) and answer.digests[old]:
                pending.digests[numbers[old]] = answer.digests[old]
            # Where the arrays are summed, what they landed in is used again.
            data = answer.blobs[old]
            pending.blobs.append(memoryview(bytes(data)) if summed else data)
        return numbers[old]

    if summed:
        for arrays in contents.array_records(into.content):
            del arrays.items[:]
    if not answer.blobs:
        return
    contents.renumber(into.content, number)
    contents.renumber(into.state, number)

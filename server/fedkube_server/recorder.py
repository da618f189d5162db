"""What happened in the run so far: the one place that knows rounds, and writes them down.

Called from the app's threads and from the event loop; a lock keeps it in order. A round is
*committed* when its checkpoint and then the histories are on disk; the next begins after that. Only
the current round is held in memory, and of the newest of those behind it what watchers are told.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fedkube.core import heap
from fedkube.core.errors import FedKubeError
from fedkube.core.run_states import RunEvent, move
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store import failpoints
from fedkube.store.history import Failure, Metric, Phase, Round, Stale
from fedkube.store.run_folder import Arrays, RunFolder, RunRecord
from fedkube_server.round_lines import RoundLines

Counters = Callable[[], tuple[int, int]]


@dataclass(slots=True)
class _Open:
    """A phase that is going on."""

    phase: Phase
    began: float
    bytes_up: int
    bytes_down: int


@dataclass(slots=True)
class _Totals:
    """What is counted over all rounds. ``failure``: the newest one on the disk."""

    asked: int = 0
    answered: int = 0
    failure: str = ""

    def add(self, entry: Round) -> None:
        """A whole round, which an earlier life has seen."""
        for phase in entry.phases.values():
            self.asked += phase.asked
            self.answered += len(phase.clients)


class Recorder:
    """Keeps the run's record and its history.

    ``monotonic``: seconds that never jump. ``counters``: bytes up and down so far.
    ``changed``: called, from any thread, whenever a watcher would see something new.
    ``goes_on``: whether the rounds on the disk are of earlier lives of the server, whose journal
    this one has.
    """

    def __init__(
        self,
        folder: RunFolder,
        record: RunRecord,
        monotonic: Callable[[], float],
        counters: Counters,
        changed: Callable[[], None] = lambda: None,
        goes_on: bool = False,
    ) -> None:
        self.record = record
        self.rounds_planned = 0
        self.changed = changed
        self._folder = folder
        self._histories = folder.histories(record.run_id)
        self._monotonic = monotonic
        self._live = counters
        self._counted = (0, 0)
        self._recalls = goes_on  # what happens may have happened before, and be written down
        self._begun = goes_on  # whether the rounds on the disk are of this run
        if goes_on:
            self._take_over()
        self._lock = threading.RLock()
        self._writing = threading.RLock()  # held while files are written, before the other
        self._current: Round | None = None
        self._mended: dict[int, Round] = {}  # earlier rounds that have changed since
        self._totals = _Totals()
        self._ended = RoundLines()
        self._round_began = monotonic()
        self._open: _Open | None = None
        self._seen: set[tuple[int, int]] = set()  # phase and client that counted in it
        self._arrays: Callable[[], Arrays] | None = None
        self._arrays_round = 0
        self._dirty = False

    def _take_over(self) -> None:
        """What earlier lives have sent and received counts, too."""
        for each in self._histories.rounds():
            up, down = self._counted
            phases = each.phases.values()
            self._counted = (
                up + sum(phase.bytes_up for phase in phases),
                down + sum(phase.bytes_down for phase in phases),
            )

    # ------------------------------------------------------------- phases

    def begin(self, name: str, message_type: str, asked: int, number: int | None = None) -> Phase:
        """A send-and-collect begins.

        ``number``: the round, where the strategy says it. Otherwise a phase that the current round
        has had already starts a new one.
        """
        with self._writing:
            number = self._number_of(name) if number is None else number
            if number > self.round or self._current is None:
                self._begin_round(number)
            phase = self._open_phase(name, message_type, asked)
        self.changed()
        return phase

    def _begin_round(self, number: int) -> None:
        self.close_round()
        with self._lock:
            self._current = Round(number)
            self._round_began = self._monotonic()

    def _number_of(self, name: str) -> int:
        """The round of a phase that says none: the current one, unless it has had that phase."""
        with self._lock:
            current = self._current
            if current is None or current.round == 0:
                return 1
            return current.round + 1 if name in current.phases else current.round

    def _open_phase(self, name: str, message_type: str, asked: int) -> Phase:
        with self._lock:
            assert self._current is not None, "a phase is a round's"
            up, down = self._counters()
            phase = self._current.phases.get(name)
            if phase is None:
                phase = self._current.phases[name] = Phase(message_type)
                self._seen.clear()
            phase.asked += asked
            self._totals.asked += asked
            self._open = _Open(phase, self._monotonic(), up, down)
            self._dirty = True
            return phase

    def settled(
        self, phase: Phase, client: int, failure: str | None, *, needed: bool = True
    ) -> None:
        """A client's message is over. ``needed``: whether anybody has waited for the reply."""
        with self._lock:
            if failure is None:
                # A protocol of an app's own may ask a client several times in a phase.
                if (id(phase), client) not in self._seen:
                    self._seen.add((id(phase), client))
                    phase.clients.append(client)
                    self._totals.answered += 1
            else:
                phase.failures.append(Failure(client, failure, needed))
            self._measure(phase)
            self._dirty = True
        self.changed()

    def late(self, phase: Phase, client: int, rounds: int) -> None:
        """An update of so many rounds before counts in this phase."""
        with self._lock:
            phase.stale.append(Stale(client, rounds))
        self.settled(phase, client, None)

    def refused(self, phase: Phase, client: int, reason: str) -> None:
        """A reply that had counted turned out not to be fit."""
        with self._lock:
            if client in phase.clients:
                phase.clients.remove(client)
                self._totals.answered -= 1
                phase.failures.append(Failure(client, reason))
                self._dirty = True

    def end(self, phase: Phase) -> None:
        """All of the phase's messages are over."""
        with self._lock:
            self._measure(phase)
            if self._open is not None and self._open.phase is phase:
                self._open = None
        self.changed()

    def _measure(self, phase: Phase) -> None:
        if self._open is None or self._open.phase is not phase:
            return
        up, down = self._counters()
        now = self._monotonic()
        phase.seconds += now - self._open.began
        phase.bytes_up += up - self._open.bytes_up
        phase.bytes_down += down - self._open.bytes_down
        self._open = _Open(phase, now, up, down)

    # ------------------------------------------------------------- results

    def metrics(self, phase: str, metrics: dict[str, Metric]) -> None:
        """What the strategy, or a mean over the clients, made of a phase's metrics."""
        with self._lock:
            if self._current is not None and phase in self._current.phases:
                self._current.phases[phase].metrics = metrics
                self._dirty = True

    def measured(self, number: int, metrics: dict[str, Metric]) -> None:
        """What the ServerApp measured itself after a round; 0 is before the first."""
        with self._writing:
            if self._current is None or number > self._current.round:
                self._begin_round(number)
            with self._lock:
                self._round(number).server |= metrics
                self._dirty = True

    def _round(self, number: int) -> Round:
        """The current round, or an earlier one, which is to be written anew."""
        assert self._current is not None, "there is a round"
        if number == self._current.round:
            return self._current
        if number not in self._mended:
            self._mended[number] = self._histories.find(number) or Round(number)
        return self._mended[number]

    def arrays(self, arrays: Callable[[], Arrays]) -> None:
        """The global arrays are new; they are fetched when something is written."""
        with self._lock:
            self._arrays = arrays
            self._arrays_round = self.round
            self._dirty = True

    def close_round(self) -> None:
        """Commit the current round, if anything of it is not on disk yet."""
        with self._writing:
            with self._lock:
                current = self._current
                if not self._dirty or current is None:
                    return
                if self._recalls and (before := self._histories.find(current.round)) is not None:
                    current.went_as(before)
                    self._dirty = False
                    self._pass(current)
                    return
                if current.round:  # round 0 is only what the app measured before the first
                    current.seconds = self._monotonic() - self._round_began
                arrays = self._arrays if self._checkpoint_due(current.round) else None
                mended = (self._mended[number] for number in sorted(self._mended))
                rounds = copy.deepcopy([*mended, current])
                self._dirty = False
            try:
                # Not under the lock: watchers and workers must not wait for a disk.
                if arrays is not None:
                    keep = self.record.spec.checkpoints.keep
                    self._folder.write_checkpoint(current.round, arrays(), keep)
                failpoints.reach("round.checkpoint")
                (self._histories.put if self._begun else self._histories.begin)(rounds)
            except FedKubeError:
                self._dirty = True
                raise
            with self._lock:
                self._begun = True
                self._mended.clear()
                self._pass(current)
        self.changed()

    def _pass(self, entry: Round) -> None:
        """A round is on the disk."""
        self._ended.note(entry)
        self._totals.failure = _first_failure(entry) or self._totals.failure

    def forward(self, number: int) -> None:
        """The rounds up to this one are behind, as an earlier life has written them down."""
        with self._writing, self._lock:
            for each in self._histories.rounds():
                if each.round <= number and (self._current is None or each.round > self.round):
                    self._current = each
                    self._totals.add(each)
                    self._pass(each)
            self._dirty = False
        self.changed()

    def asking(self) -> None:
        """Clients are asked: from the current round on, nothing of an earlier life's holds."""
        if not self._recalls:
            return
        with self._writing, self._lock:
            self._recalls = False
            self._folder.drop_checkpoints(self.round)

    def _checkpoint_due(self, number: int) -> bool:
        every = self.record.spec.checkpoints.every
        return self._arrays_round == number and every > 0 and number % every == 0

    # ------------------------------------------------------------- the run

    def started(self) -> None:
        """The server is up."""
        with self._lock:
            self.record.state = move(self.record.state, RunEvent.STARTED)
            self._folder.write_record(self.record)
        self.changed()

    def banned(self, sites: list[str]) -> None:
        """These may take part no more, in later lives of the server neither."""
        with self._writing, self._lock:
            before, self.record.banned = self.record.banned, sites
            try:
                if not self.record.state.final:
                    self._folder.write_record(self.record)
            except FedKubeError:
                self.record.banned = before
                raise
        self.changed()

    def finish(self, event: RunEvent) -> None:
        """The run is over: commit what is open, write the model and the record.

        If the disk is full, the record still gets written, and says so; then this raises.
        """
        trouble: FedKubeError | None = None
        with self._writing:
            try:
                self.close_round()
                if self._begun:
                    self._histories.mend()
                if self._arrays is not None:
                    self.record.model = self._folder.write_model(self._arrays())
            except FedKubeError as error:
                trouble, event = error, RunEvent.BROKE
                self.record.reason, self.record.message = type(error).__name__, error.message
            self._folder.drop_ballast()
            with self._lock:
                self.record.bytes_up, self.record.bytes_down = self._counters()
                self.record.sum_up(self._all())
                self.record.server_peak_rss_bytes = heap.peak_bytes()
                self.record.state = move(self.record.state, event)
            self._folder.write_record(self.record)
        self.changed()
        if trouble is not None:
            raise trouble

    def _counters(self) -> tuple[int, int]:
        """Bytes up and down, of all lives of the server."""
        up, down = self._live()
        return self._counted[0] + up, self._counted[1] + down

    def _all(self) -> Iterator[Round]:
        """The run's rounds, first to last, whether the newest could be written or not."""
        for each in self._histories.rounds() if self._begun else ():
            if self._current is None or each.round < self._current.round:
                yield self._mended.get(each.round, each)
        if self._current is not None:
            yield self._current

    @property
    def round(self) -> int:
        """The number of the round that is going on; 0 before the first."""
        with self._lock:
            return self._current.round if self._current is not None else 0

    @property
    def bytes_received(self) -> int:
        """From all workers so far."""
        return self._counters()[0]

    @property
    def asked(self) -> int:
        """How many messages the app has sent so far."""
        with self._lock:
            return self._totals.asked

    @property
    def answered(self) -> int:
        """How many replies have counted so far."""
        with self._lock:
            return self._totals.answered

    def first_failure(self) -> str:
        """The reason of the newest round's first failure, or an empty string."""
        with self._lock:
            current = self._current
            return (_first_failure(current) if current else "") or self._totals.failure

    # ------------------------------------------------------------- for watchers

    def snapshot(self, seen: int, running: int, workers: int) -> tuple[pb.Snapshot, int]:
        """Where the run is, with the rounds that were committed since ``seen`` of them were."""
        with self._lock:
            up, down = self._counters()
            current = self._current
            snapshot = pb.Snapshot(
                state=self.record.state,
                round=current.round if current else 0,
                rounds=self.rounds_planned,
                workers=workers,
                bytes_up=up,
                bytes_down=down,
                eta_s=self._eta(),
                running=running,
                banned=self.record.banned,
            )
            if self.record.state.final:
                snapshot.eta_s = -1.0
            if self._open is not None and current is not None:
                phase = self._open.phase
                snapshot.phase = phase.message_type
                snapshot.clients = phase.asked
                # A late update's client counts, and may be among those that were not asked, too.
                snapshot.done = min(phase.asked, len(phase.clients) + len(phase.failures))
                snapshot.failed = sum(each.needed for each in phase.failures)
            snapshot.ended.extend(self._ended.since(seen))
            return snapshot, self._ended.count

    def _eta(self) -> float:
        recent = self._ended.seconds
        if not recent or not self.rounds_planned:
            return -1.0
        left = max(0, self.rounds_planned - self._ended.trained)
        return left * sum(recent) / len(recent)


def _first_failure(entry: Round) -> str:
    return next((failure.reason for failure in entry.failed()), "")

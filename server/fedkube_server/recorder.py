"""What happened in the run so far: the one place that knows rounds, and writes them down.

Called from the app's threads and from the event loop; a lock keeps it in order. A round is
*committed* when its checkpoint and then the histories are on disk; the next begins after that.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedkube.core.errors import FedKubeError
from fedkube.core.run_states import RunEvent, move
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store import failpoints
from fedkube.store.history import Failure, Metric, Phase, Round
from fedkube.store.run_folder import Arrays, RunFolder, RunRecord, render_history

Counters = Callable[[], tuple[int, int]]


@dataclass(slots=True)
class _Open:
    """A phase that is going on."""

    phase: Phase
    began: float
    bytes_up: int
    bytes_down: int


class Recorder:
    """Keeps the run's record and its history.

    ``monotonic``: seconds that never jump. ``counters``: bytes up and down so far.
    ``changed``: called, from any thread, whenever a watcher would see something new.
    ``earlier``: the rounds that earlier lives of the server have committed, which are on disk.
    """

    def __init__(
        self,
        folder: RunFolder,
        record: RunRecord,
        monotonic: Callable[[], float],
        counters: Counters,
        changed: Callable[[], None] = lambda: None,
        earlier: Sequence[Round] = (),
    ) -> None:
        self.record = record
        self.rounds_planned = 0
        self.changed = changed
        self._folder = folder
        self._monotonic = monotonic
        phases = [phase for each in earlier for phase in each.phases.values()]
        up, down = (sum(each.bytes_up for each in phases), sum(each.bytes_down for each in phases))
        self._counted = up, down
        self._live = counters
        self._earlier = {each.round: each for each in earlier}
        self._lock = threading.RLock()
        self._writing = threading.RLock()  # held while files are written, before the other
        self._rounds: list[Round] = []
        self._lines: dict[int, tuple[object, str]] = {}  # of the history, as they were written
        self._round_began = monotonic()
        self._open: _Open | None = None
        self._seen: set[tuple[int, int]] = set()  # phase and client that counted in it
        self._arrays: Callable[[], Arrays] | None = None
        self._arrays_round = 0
        self._written = 0  # rounds on disk; the last of them may have changed since
        self._dirty = False

    # ------------------------------------------------------------- phases

    def begin(self, name: str, message_type: str, asked: int, number: int | None = None) -> Phase:
        """A send-and-collect begins.

        ``number``: the round, where the strategy says it. Otherwise a phase that the current round
        has had already starts a new one.
        """
        with self._writing:
            number = self._number_of(name) if number is None else number
            if not self._rounds or number > self._rounds[-1].round:
                self.close_round()
                with self._lock:
                    self._rounds.append(Round(number))
                    self._round_began = self._monotonic()
            phase = self._open_phase(name, message_type, asked)
        self.changed()
        return phase

    def _number_of(self, name: str) -> int:
        """The round of a phase that says none: the current one, unless it has had that phase."""
        with self._lock:
            last = self._rounds[-1].round if self._rounds else 0
            return last + 1 if last == 0 or name in self._rounds[-1].phases else last

    def _open_phase(self, name: str, message_type: str, asked: int) -> Phase:
        with self._lock:
            up, down = self._counters()
            phase = self._rounds[-1].phases.get(name)
            if phase is None:
                phase = self._rounds[-1].phases[name] = Phase(message_type)
                self._seen.clear()
            phase.asked += asked
            self._open = _Open(phase, self._monotonic(), up, down)
            self._dirty = True
            return phase

    def settled(self, phase: Phase, client: int, failure: str | None) -> None:
        """A client's message is over."""
        with self._lock:
            if failure is None:
                # A protocol of an app's own may ask a client several times in a phase.
                if (id(phase), client) not in self._seen:
                    self._seen.add((id(phase), client))
                    phase.clients.append(client)
            else:
                phase.failures.append(Failure(client, failure))
            self._measure(phase)
            self._dirty = True
        self.changed()

    def refused(self, phase: Phase, client: int, reason: str) -> None:
        """A reply that had counted turned out not to be fit."""
        with self._lock:
            if client in phase.clients:
                phase.clients.remove(client)
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
            if self._rounds and phase in self._rounds[-1].phases:
                self._rounds[-1].phases[phase].metrics = metrics
                self._dirty = True

    def measured(self, number: int, metrics: dict[str, Metric]) -> None:
        """What the ServerApp measured itself after a round; 0 is before the first."""
        with self._lock:
            entry = next((each for each in self._rounds if each.round == number), None)
            if entry is None:
                entry = Round(number)
                self._rounds.append(entry)
                self._rounds.sort(key=lambda each: each.round)
            entry.server |= metrics
            self._dirty = True

    def arrays(self, arrays: Callable[[], Arrays]) -> None:
        """The global arrays are new; they are fetched when something is written."""
        with self._lock:
            self._arrays = arrays
            self._arrays_round = self._rounds[-1].round if self._rounds else 0
            self._dirty = True

    def close_round(self) -> None:
        """Commit the current round, if anything of it is not on disk yet."""
        with self._writing:
            with self._lock:
                if not self._dirty or not self._rounds:
                    return
                current = self._rounds[-1]
                earlier = self._earlier.get(current.round)
                if earlier is not None:
                    current.went_as(earlier)
                    self._written, self._dirty = len(self._rounds), False
                    return
                if current.round:  # round 0 is only what the app measured before the first
                    current.seconds = self._monotonic() - self._round_began
                arrays = self._arrays if self._checkpoint_due(current.round) else None
                files = render_history(self.record.run_id, self._rounds, self._lines)
                ended = len(self._rounds)
                self._dirty = False
            try:
                # Not under the lock: watchers and workers must not wait for a disk.
                if arrays is not None:
                    keep = self.record.spec.checkpoints.keep
                    self._folder.write_checkpoint(current.round, arrays(), keep)
                failpoints.reach("round.checkpoint")
                self._folder.write_rendered(files)
            except FedKubeError:
                self._dirty = True
                raise
            with self._lock:
                self._written = ended
        self.changed()

    def forward(self, number: int) -> None:
        """The rounds up to this one are behind, as an earlier life has written them down."""
        with self._lock:
            self._rounds = [self._earlier[each] for each in sorted(self._earlier) if each <= number]
            self._written, self._dirty = len(self._rounds), False
        self.changed()

    def asking(self) -> None:
        """Clients are asked: from the current round on, nothing of an earlier life's holds."""
        if not self._earlier:
            return
        with self._writing, self._lock:
            current = self._rounds[-1].round if self._rounds else 0
            self._earlier = {}
            self._folder.drop_checkpoints(current)

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

    def finish(self, event: RunEvent) -> None:
        """The run is over: commit what is open, write the model and the record.

        If the disk is full, the record still gets written, and says so; then this raises.
        """
        trouble: FedKubeError | None = None
        with self._writing:
            try:
                self.close_round()
                if self._arrays is not None:
                    self.record.model = self._folder.write_model(self._arrays())
            except FedKubeError as error:
                trouble, event = error, RunEvent.BROKE
                self.record.reason, self.record.message = type(error).__name__, error.message
            self._folder.drop_ballast()
            with self._lock:
                self.record.bytes_up, self.record.bytes_down = self._counters()
                self.record.sum_up(self._rounds)
                # Linux gives KiB.
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                self.record.server_peak_rss_bytes = peak * 1024
                self.record.state = move(self.record.state, event)
            self._folder.write_record(self.record)
        self.changed()
        if trouble is not None:
            raise trouble

    def _counters(self) -> tuple[int, int]:
        """Bytes up and down, of all lives of the server."""
        up, down = self._live()
        return self._counted[0] + up, self._counted[1] + down

    @property
    def round(self) -> int:
        """The number of the round that is going on; 0 before the first."""
        with self._lock:
            return self._rounds[-1].round if self._rounds else 0

    @property
    def bytes_received(self) -> int:
        """From all workers so far."""
        return self._counters()[0]

    @property
    def asked(self) -> int:
        """How many messages the app has sent so far."""
        with self._lock:
            return sum(phase.asked for each in self._rounds for phase in each.phases.values())

    @property
    def answered(self) -> int:
        """How many replies have counted so far."""
        with self._lock:
            return sum(
                len(phase.clients) for each in self._rounds for phase in each.phases.values()
            )

    def first_failure(self) -> str:
        """The reason of the newest round's first failure, or an empty string."""
        with self._lock:
            for each in reversed(self._rounds):
                for phase in each.phases.values():
                    if phase.failures:
                        return phase.failures[0].reason
        return ""

    # ------------------------------------------------------------- for watchers

    def snapshot(self, seen: int, running: int, workers: int) -> tuple[pb.Snapshot, int]:
        """Where the run is, with the rounds that were committed since ``seen`` of them were."""
        with self._lock:
            up, down = self._counters()
            current = self._rounds[-1] if self._rounds else None
            snapshot = pb.Snapshot(
                state=self.record.state,
                round=current.round if current else 0,
                rounds=self.rounds_planned,
                workers=workers,
                bytes_up=up,
                bytes_down=down,
                eta_s=self._eta(),
            )
            if self.record.state.final:
                snapshot.eta_s = -1.0
            if self._open is not None and current is not None:
                phase = self._open.phase
                snapshot.phase = phase.message_type
                snapshot.clients = phase.asked
                snapshot.done = len(phase.clients) + len(phase.failures)
                snapshot.failed = len(phase.failures)
                snapshot.running = running
            ended = [_line(entry) for entry in self._rounds[seen : self._written] if entry.counted]
            snapshot.ended.extend(ended)
            return snapshot, self._written

    def _eta(self) -> float:
        trained = [each.seconds for each in self._rounds[: self._written] if each.round > 0]
        if not trained or not self.rounds_planned:
            return -1.0
        recent = trained[-5:]
        left = max(0, self.rounds_planned - len(trained))
        return left * sum(recent) / len(recent)


def _line(entry: Round) -> pb.RoundLine:
    phases = entry.phases.values()
    return pb.RoundLine(
        round=entry.round,
        seconds=entry.seconds,
        clients=max((len(phase.clients) for phase in phases), default=0),
        failures=sum(len(phase.failures) for phase in phases),
        metrics=[pb.Metric(name=name, value=value) for name, value in entry.flat_metrics().items()],
    )

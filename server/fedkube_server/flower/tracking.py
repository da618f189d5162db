"""Which round and phase a message belongs to, and what the strategy made of the replies.

The strategies are watched (see ``hooks``), so an app need not say anything. An app without a
strategy has its rounds counted by what it sends.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from fedkube.api.v1alpha1 import Cohort
from fedkube.app.arrays import WireArray
from fedkube.app.tracebacks import headline
from fedkube.core.aggregation import STATED, Aggregation
from fedkube.core.cohort import asked, share
from fedkube.core.errors import AppInvalid, FedKubeError
from fedkube.core.run_states import RunEvent
from fedkube.store.history import Metric, Phase
from fedkube_server.calls import Admission, Answer, ClientState, refusal_text
from fedkube_server.flower.condensing import Start
from fedkube_server.flower.rules import (
    admission,
    admit_anything,
    admit_folded,
    are_the_strategys,
    averages,
    fold_for,
    is_flowers,
    is_legacy,
    takes_mean,
    unfit,
    weight_key,
)
from fedkube_server.folds import Fold
from fedkube_server.halt import Ending, Halt
from fedkube_server.late import LateUpdates
from fedkube_server.past import Past
from fedkube_server.quorum import Quorum
from fedkube_server.recorder import Recorder

# Garbage is collected at the next phase after so many bytes of replies.
_COLLECT_BYTES = 64 * 1024 * 1024

_CATEGORIES = ("train", "evaluate", "query")


@dataclass(slots=True)
class _Declared:
    """A phase that a strategy has configured."""

    name: str
    strategy: object
    aggregation: str
    phase: Phase
    messages: Sequence[object]
    sent: RecordDict | None = None
    checked: bool = False
    fold: Fold | None = None
    admit_folded: Admission = admit_anything
    quorum: Quorum | None = None
    used: bool = False  # whether its messages went over our grid at all
    # Held while the first message decides how replies are taken: Flower's older API sends each
    # client's from a thread of its own.
    deciding: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Handling:
    """What is to be done with the replies to some messages.

    ``declared``: whether a strategy made the messages. ``fold``: the sum that their updates go
    into. ``quorum``: when the phase is closed though not all have answered. ``late``: where updates
    go, and come from, that are not there by then.
    """

    admit: Admission
    phase: Phase
    declared: bool
    fold: Fold | None = None
    quorum: Quorum | None = None
    late: LateUpdates | None = None


class Tracker:
    """Follows an app through its rounds.

    ``says``: what the app states of its aggregation. ``cohort``: what the run asks of each round.
    """

    def __init__(
        self,
        recorder: Recorder,
        halt: Halt,
        nodes: Sequence[int],
        says: Aggregation | None = None,
        cohort: Cohort | None = None,
        past: Past | None = None,
    ) -> None:
        self.recorder = recorder
        self.halt = halt
        self._partitions = {node: partition for partition, node in enumerate(nodes)}
        self._says = says
        self._cohort = cohort or Cohort()
        self._past = past or Past()
        folds = self._cohort.late == "fold"
        # Updates that come when their round is closed, where the run takes them.
        self.late = (
            LateUpdates(self._cohort.staleness_exponent, self._cohort.max_staleness)
            if folds
            else None
        )
        self._wanted: int | None = None  # of the clients that are being chosen
        self._before = 0  # rounds of strategies that were started earlier
        self._newest = 0  # the newest round of a strategy
        self._collected = 0
        self.unsent = ""  # why the newest message that could not be sent could not be
        self.central = False  # whether the app measures each round itself, after the clients
        self.start: Start | None = None  # whose loop is going on
        # What clients keep between calls; the grid knows.
        self.remember: Callable[[int, Answer], None] = lambda client, answer: None
        self.remembered: Callable[[], dict[int, ClientState]] = dict
        # Told how many clients a strategy needs, at the least.
        self.needs: Callable[[int], None] = lambda clients: None
        self._declared: _Declared | None = None
        self._lock = threading.Lock()

    @property
    def newest(self) -> int:
        """The newest round of a strategy."""
        return self._newest

    @property
    def clients(self) -> int:
        """How many logical clients the run has."""
        return len(self._partitions)

    # ------------------------------------------------------------- from the hooks

    def planned(self, rounds: int) -> None:
        """How many rounds there will be; an app may start a strategy more than once."""
        self._before = self._newest
        self.recorder.rounds_planned = self._before + rounds

    def starts(self, strategy: Strategy, rounds: int) -> Start:
        """Flower's own loop of a strategy's rounds begins."""
        with self._ends_run():
            self.start = Start(strategy, rounds, self._past)
        if (condensed := self.start.condensed) is not None:
            self.recorder.forward(condensed.entry.round)
            self._newest = condensed.entry.round
        return self.start

    def begins(self, number: int) -> None:
        """A round of a strategy is about to begin, and all before it have ended."""
        if self.start is None:
            return
        with self._ends_run():
            behind = self.start.goes_on(number, self.remember) or self.start.passed(number)
        unsettled = self.late is not None and self.late.waiting > 0
        if number > 1 and not behind and self._past.due and not unsettled:
            self._close_round()
            self.start.condense(number - 1, self._newest, self.remembered())

    def choosing(self, wanted: int, available: int) -> int:
        """A strategy wants so many of the clients for training: how many it is to ask."""
        if self._cohort.fraction is not None:
            wanted = share(available, self._cohort.fraction)
        self._wanted = wanted
        return asked(wanted, self._cohort.over_selection, available)

    def configured(
        self,
        name: str,
        number: int,
        strategy: object,
        aggregation: str,
        messages: Sequence[object],
    ) -> None:
        """The strategy has made a round's messages (in the older API, instructions)."""
        if not messages:
            return
        self._collect_garbage()
        self._newest = self._before + number
        with self._ends_run():
            phase = self.recorder.begin(name, name, len(messages), self._newest)
        with self._lock:
            self._declared = _Declared(
                name, strategy, aggregation, phase, messages, quorum=self._quorum(name, messages)
            )

    def _quorum(self, name: str, messages: Sequence[object]) -> Quorum | None:
        """When the phase is closed; the run is ended where its cohort cannot be had."""
        wanted, self._wanted = self._wanted, None
        if name == "train" and wanted is None:
            self._refuse_choice()
        enough = wanted if wanted is not None and wanted < len(messages) else None
        deadline_s = self._cohort.deadline_seconds
        return Quorum(enough, deadline_s) if enough or deadline_s else None

    def _refuse_choice(self) -> None:
        """End a run whose cohort cannot be chosen, since the app chooses its clients itself."""
        if self._cohort.fraction is None and self._cohort.over_selection == 1:
            return
        error = AppInvalid(
            "the run's cohort says how many clients are asked, and the app chooses them in a way "
            "of its own",
            hint="leave out the cohort's fraction and over-selection",
        )
        self.halt.set(Ending.of(error))
        self.halt.check()

    def unchecked(self, aggregation: Callable[..., Any]) -> bool:
        """Whether the replies that this method of Flower's is given still have to be checked.

        They were as they came, unless an app's own code was to get them first.
        """
        with self._lock:
            declared = self._declared
        return declared is not None and not declared.checked and averages(aggregation)

    def unfit(
        self,
        strategy: object,
        aggregation: Callable[..., Any],
        replies: Sequence[tuple[int, RecordDict]],
    ) -> list[str | None]:
        """Why each of the replies (node id, content) may not be averaged, or None."""
        with self._lock:
            declared = self._declared
        assert declared is not None, "only asked where replies are unchecked"
        key = weight_key(strategy, aggregation.__name__)
        reasons = unfit([content for _, content in replies], declared.sent, key)
        for (node, _), reason in zip(replies, reasons, strict=True):
            if reason is not None:
                client = self._partitions.get(node, -1)
                self.recorder.refused(declared.phase, client, refusal_text(reason))
        return reasons

    def _collect_garbage(self) -> None:
        """Flower's records refer to themselves: only a collection frees a round's arrays."""
        received = self.recorder.bytes_received
        if received - self._collected > _COLLECT_BYTES:
            self._collected = received
            gc.collect()

    def collecting(self, name: str) -> None:
        """The strategy is about to make something of the replies: they are committed first.

        A round that ends the run is not: it is to be tried again when the run is resumed.
        """
        with self._lock:
            declared = self._declared
        if declared is None or not declared.used:
            return
        least = (self._cohort.minimum or 1) if name == "train" else 0
        if len(declared.phase.clients) >= least:
            self._past.commit(declared.fold, self.recorder.round)

    def aggregated(
        self,
        name: str,
        metrics: Mapping[str, Any] | None,
        arrays: Callable[[], dict[str, npt.NDArray[Any]]] | None,
    ) -> None:
        """The strategy has made something of the replies."""
        with self._lock:
            declared, self._declared = self._declared, None
        if declared is not None:
            self.recorder.end(declared.phase)
            if name == "train" and declared.used:
                self._check_updates(declared.phase)
        if metrics:
            self.recorder.metrics(name, numbers(metrics))
        if arrays is not None:
            self.recorder.arrays(arrays)
        if name == "evaluate" and not self.central:
            self._close_round()

    def measured(self, number: int, metrics: Mapping[str, Any] | None) -> None:
        """The app's own measurement after a round."""
        if metrics:
            with self._ends_run():
                self.recorder.measured(self._before + number, numbers(metrics))
        if self.central and number > 0:
            self._close_round()

    def _close_round(self) -> None:
        with self._ends_run():
            self.recorder.close_round()

    @contextmanager
    def _ends_run(self) -> Iterator[None]:
        """What goes wrong ends the run, whatever the app catches: a round cannot be written."""
        try:
            yield
        except FedKubeError as error:
            self.halt.set(Ending.of(error))
            self.halt.check()

    def _check_updates(self, phase: Phase) -> None:
        """A round with too few updates ends the run: its model is not what was asked for."""
        if not phase.clients:
            self._give_up(phase)
        counted, minimum = len(phase.clients), self._cohort.minimum
        if minimum is None or counted >= minimum:
            return
        failed = [each.reason for each in phase.failures if each.needed]
        why = f": {headline(failed[0])}" if failed else ""
        message = (
            f"{counted} of the {phase.asked} clients of a round answered, and cohort.minimum is "
            f"{minimum}{why}"
        )
        self.halt.set(Ending(RunEvent.BROKE, "TooFewUpdates", message))
        self.halt.check()

    def _give_up(self, phase: Phase) -> None:
        """A round that nobody trained in: the next would start from where this one did."""
        if phase.failures:
            reason = phase.failures[0].reason
            message = f"all {phase.asked} clients of a round failed: {headline(reason)}"
        else:
            reason = self.unsent
            message = f"none of the {phase.asked} messages of a round could be sent: {reason}"
        self.halt.set(Ending(RunEvent.BROKE, "NoUpdates", message, reason))
        self.halt.check()

    # ------------------------------------------------------------- from the grid

    def sending(self, messages: Sequence[Message]) -> Handling:
        """How the replies are checked and counted."""
        name = category(messages)
        with self._lock:
            declared = self._declared
        if declared is not None and declared.name == name:
            declared.used = True
            if not are_the_strategys(messages, declared.messages):
                # A workflow of its own, such as secure aggregation, that only asked whom to ask.
                self._refuse_late(name, "the app has a workflow of its own")
                return Handling(admit_anything, declared.phase, True)
            with declared.deciding:
                return self._declared_handling(declared, messages[0].content)
        self._refuse_late(name, "the app has a loop of its own")
        kind = messages[0].metadata.message_type if messages else name
        quorum = self._quorum(name, messages)
        with self._ends_run():
            phase = self.recorder.begin(name, kind, len(messages))
        return Handling(admit_anything, phase, False, quorum=quorum)

    def _declared_handling(self, declared: _Declared, sent: RecordDict) -> Handling:
        if declared.sent is None and self._takes_mean(declared):
            # A late update is added in two parts, and each client has one at most.
            cohort = len(declared.messages) if self.late is None else 3 * self.clients
            declared.fold = fold_for(declared.strategy, declared.aggregation, sent, cohort)
            if declared.fold is not None:
                declared.admit_folded = admit_folded(declared.fold)
        declared.sent = sent
        if declared.fold is not None:
            declared.checked = True
            if is_legacy(declared.strategy):
                self._refuse_late(declared.name, "the app uses Flower's older API")
            return Handling(
                declared.admit_folded,
                declared.phase,
                True,
                declared.fold,
                declared.quorum,
                self.late,
            )
        kind = type(declared.strategy).__name__
        self._refuse_late(declared.name, f"the strategy {kind} needs the update of every client")
        declared.checked = is_flowers(declared.strategy, declared.aggregation)
        check = admission(declared.strategy, declared.aggregation, sent)
        return Handling(check, declared.phase, True, quorum=declared.quorum)

    def _refuse_late(self, name: str, why: str) -> None:
        """End a run that is to take late updates, and has nothing to add them to."""
        if name != "train" or self.late is None:
            return
        error = AppInvalid(
            f"the run's cohort takes late updates (late: fold), and {why}",
            hint="leave out the cohort's late; what is late is refused then",
        )
        self.halt.set(Ending.of(error))
        self.halt.check()

    def _takes_mean(self, declared: _Declared) -> bool:
        if declared.name != "train":
            return False
        try:
            return takes_mean(declared.strategy, declared.aggregation, self._says)
        except AppInvalid as error:
            self.halt.set(Ending.of(error))
            raise

    def mean(self, weights: Sequence[float]) -> dict[str, npt.NDArray[Any]] | None:
        """The mean of the updates that have counted; None where they were not summed.

        ``weights``: of those that are to be averaged.
        """
        with self._lock:
            declared = self._declared
        if declared is None or declared.fold is None:
            return None
        if sorted(map(float, weights)) != sorted(declared.fold.weights):
            raise AppInvalid(
                f"{len(weights)} updates are to be averaged, and {len(declared.fold.weights)} "
                "were summed as they came: the app leaves some out, or weighs them otherwise",
                hint=f'add {STATED} = "{Aggregation.EVERY_UPDATE}" to the run config',
            )
        return declared.fold.mean()

    def collected(self, phase: Phase, replies: Sequence[Message]) -> None:
        """Replies of a send-and-collect; of one that no strategy declared, means are recorded."""
        with self._lock:
            if self._declared is not None and self._declared.phase is phase:
                return
        if self._cohort.minimum is not None and category_of(phase.message_type) == "train":
            self._check_updates(phase)
        means = mean_metrics(replies)
        if means and not phase.metrics:
            phase.metrics = means


def category(messages: Sequence[Message]) -> str:
    """The phase that messages belong to by their type."""
    kinds = {category_of(message.metadata.message_type) for message in messages}
    return kinds.pop() if len(kinds) == 1 else "query"


def category_of(message_type: str) -> str:
    """The phase that messages of a type belong to."""
    kind = message_type.partition(".")[0]
    return kind if kind in _CATEGORIES else "query"


def numbers(metrics: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics that are numbers or lists of them, as plain Python."""
    plain: dict[str, Metric] = {}
    for key, value in metrics.items():
        if isinstance(value, list):
            if all(isinstance(item, int | float) for item in value):
                plain[str(key)] = value
        elif isinstance(value, bool | np.bool_ | int | np.integer):
            plain[str(key)] = int(value)
        elif isinstance(value, float | np.floating):
            plain[str(key)] = float(value)
    return plain


def mean_metrics(replies: Sequence[Message]) -> dict[str, Metric]:
    """Plain means over the clients, of each scalar metric that all of them sent."""
    columns: dict[str, list[float]] = {}
    answered = [message for message in replies if message.has_content()]
    for message in answered:
        for record in message.content.metric_records.values():
            for key, value in record.items():
                if not isinstance(value, list):
                    columns.setdefault(key, []).append(float(value))
    return {
        key: sum(values) / len(values)
        for key, values in columns.items()
        if len(values) == len(answered)
    }


def plain_arrays(record: ArrayRecord) -> Callable[[], dict[str, npt.NDArray[Any]]]:
    """The record's arrays, fetched when called; an app may empty the record meanwhile."""
    kept = dict(record.items())

    def fetch() -> dict[str, npt.NDArray[Any]]:
        return {name: _plain(array) for name, array in kept.items()}

    return fetch


def _plain(array: Any) -> npt.NDArray[Any]:
    if isinstance(array, WireArray) and array.elements is not None:
        return array.elements
    if array.stype != "numpy.ndarray":
        return np.frombuffer(array.data, np.uint8)
    plain: npt.NDArray[Any] = array.numpy()
    return plain

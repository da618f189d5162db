"""One start of a strategy: what its rounds have come to, for a life that need not repeat them.

Flower's own loop (``Strategy.start``) keeps nothing between rounds but the arrays and the metrics;
all else is the strategy's. So a later life lets the loop pass over the rounds that were condensed:
it is given what they came to, nobody is asked, and before the first round that follows the strategy
and the random generators are set to what they were then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Strategy

from fedkube.core.errors import AppInvalid, Environment
from fedkube.proto.v1 import journal_pb2 as journal
from fedkube_server.calls import Answer, ClientState
from fedkube_server.flower import strategy_state
from fedkube_server.past import Condensed, Past

log = logging.getLogger("fedkube.server")

_TRAIN, _EVALUATE, _SERVER = "train", "evaluate", "server"

_QUIET = logging.Filter("nobody")


class Start:
    """Of a strategy, for so many rounds.

    Raises AppInvalid where the rounds of an earlier life cannot be this strategy's.
    """

    def __init__(self, strategy: Strategy, rounds: int, past: Past) -> None:
        self._strategy = strategy
        self._past = past
        self._condenses = past.keeps
        self._seen = strategy_state.look(strategy) if self._condenses else {}
        self._arrays: ArrayRecord | None = None
        self._metrics: dict[str, dict[int, MetricRecord]] = {_TRAIN: {}, _EVALUATE: {}, _SERVER: {}}
        self._later: Mapping[str, Any] = {}
        self._arrays_round = 0
        self.condensed = past.start()
        self._number = past.starts
        if self.condensed is not None:
            self._take_over(self.condensed, rounds)

    def _take_over(self, condensed: Condensed, rounds: int) -> None:
        entry = condensed.entry
        name = _name(self._strategy)
        if name != entry.strategy or rounds <= entry.rounds:
            raise AppInvalid(
                f"the run cannot be resumed: its journal has what {entry.rounds} rounds of "
                f"{entry.strategy} have come to, and the app now starts {name} for {rounds}",
                hint="restore the app to what it was, or begin a new run",
            )
        try:
            state = strategy_state.load(*condensed.state)
        except strategy_state.NotPlain as error:
            raise Environment(f"the journal has no state that can be read: {error}") from None
        self._later = state
        self._arrays, self._arrays_round = state["arrays"]
        self._metrics = {
            phase: {number: MetricRecord(values) for number, values in rounds.items()}
            for phase, rounds in state["metrics"].items()
        }

    # ------------------------------------------------------------- rounds that are behind

    def passed(self, number: int) -> bool:
        """Whether an earlier life has condensed this round."""
        return self.condensed is not None and 0 < number <= self.condensed.entry.rounds

    def trained(self, number: int) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What ``aggregate_train`` of a round that is behind gave; the newest arrays alone."""
        arrays = self._arrays if number == self._arrays_round else None
        return arrays, self._metrics[_TRAIN].get(number)

    def evaluated(self, number: int) -> MetricRecord | None:
        """What ``aggregate_evaluate`` gave."""
        return self._metrics[_EVALUATE].get(number)

    def measured(self, number: int) -> MetricRecord | None:
        """What the app's own evaluation gave."""
        return self._metrics[_SERVER].get(number)

    def goes_on(self, number: int, remember: Callable[[int, Answer], None]) -> bool:
        """Whether this is the first round that is not behind: from here all is as it was."""
        if self.condensed is None or not self._later:
            return False
        if number == 1:
            log.info("rounds 1 to %d are behind, and not repeated", self.condensed.entry.rounds)
            # Flower would print a line or more for each.
            logging.getLogger("flwr").addFilter(_QUIET)
        if self.passed(number):
            return False
        try:
            strategy_state.change(self._strategy, self._later["strategy"])
        except KeyError as error:
            raise AppInvalid(
                f"the run cannot be resumed: {_name(self._strategy)} has no attribute {error}, of "
                "which the journal has the state",
                hint="restore the app to what it was, or begin a new run",
            ) from None
        self._past.forward(self.condensed)
        for client, kept in self.condensed.clients.items():
            remember(client, kept)
        strategy_state.set_chance(self._later["chance"])
        self.close()
        return True

    def close(self) -> None:
        """The strategy has ended, or goes on."""
        self._later = {}
        logging.getLogger("flwr").removeFilter(_QUIET)

    # ------------------------------------------------------------- rounds that are

    def has_trained(
        self, number: int, arrays: ArrayRecord | None, metrics: MetricRecord | None
    ) -> None:
        """A round's ``aggregate_train`` gave this."""
        if not self._condenses:
            return
        if arrays is not None:
            # A strategy may empty what it has returned, but not before the next round.
            self._arrays, self._arrays_round = arrays, number
        self._note(_TRAIN, number, metrics)

    def has_evaluated(self, number: int, metrics: MetricRecord | None) -> None:
        """A round's ``aggregate_evaluate`` gave this."""
        self._note(_EVALUATE, number, metrics)

    def has_measured(self, number: int, metrics: MetricRecord | None) -> None:
        """The app's own evaluation after a round gave this; 0: before the first."""
        self._note(_SERVER, number, metrics)

    def _note(self, phase: str, number: int, metrics: MetricRecord | None) -> None:
        if self._condenses and metrics is not None:
            self._metrics[phase][number] = metrics

    def condense(self, rounds: int, number: int, clients: Mapping[int, ClientState]) -> None:
        """Have what the rounds so far have come to in the journal, in place of what they were.

        ``rounds``: of the strategy. ``number``: the last of them, as the run counts. ``clients``:
        what each keeps.
        """
        if not self._condenses or self._past.starts != self._number:
            return
        try:
            state = strategy_state.dump(
                {
                    "strategy": strategy_state.changes(self._strategy, self._seen),
                    "arrays": (self._arrays, self._arrays_round),
                    "metrics": {
                        phase: {each: dict(values) for each, values in by_round.items()}
                        for phase, by_round in self._metrics.items()
                    },
                    "chance": strategy_state.chance(),
                }
            )
        except strategy_state.NotPlain as error:
            self._condenses = False
            log.warning(
                "the journal grows with every round: what %s is after a round cannot be kept, "
                "since %s",
                _name(self._strategy),
                error,
            )
            return
        entry = journal.Condensed(rounds=rounds, round=number, strategy=_name(self._strategy))
        if self._past.condense(entry, state, clients):
            log.info("the journal is condensed: rounds up to %d will not be repeated", number)


def _name(strategy: Strategy) -> str:
    return type(strategy).__qualname__

"""What a strategy's start keeps of its rounds, and of whose rounds it takes over what they were."""

import logging
import random

import numpy as np
import pytest
from fedkube_server.calls import ClientState
from fedkube_server.flower.condensing import Start
from fedkube_server.past import Condensed
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from fedkube.core.errors import AppInvalid, Environment
from fedkube.proto.v1 import exchange_pb2 as pb


class Past:
    """Keeps what it is given for the next life."""

    keeps = True

    def __init__(self, condensed=None):
        self.given = condensed
        self.starts = 0
        self.forwarded = None

    def start(self):
        self.starts += 1
        return self.given if self.starts == 1 else None

    def condense(self, entry, state, clients):
        self.given = Condensed(entry, (state[0], [memoryview(bytes(b)) for b in state[1]]), {})
        self.clients = clients
        return True

    def forward(self, condensed):
        self.forwarded = condensed


def arrays(value):
    return ArrayRecord({"w": Array(np.full(2, value, np.float32))})


def two_rounds(strategy, past):
    start = Start(strategy, 5, past)
    start.has_measured(0, MetricRecord({"loss": 9.0}))
    for number in (1, 2):
        strategy.momentum_vector = [np.full(2, float(number))]
        start.has_trained(number, arrays(number), MetricRecord({"train": number}))
        start.has_evaluated(number, None)
        start.has_measured(number, MetricRecord({"loss": 1.0 / number}))
    return start


def make():
    return FedAvgM(server_momentum=0.5)


@pytest.fixture
def condensed():
    past = Past()
    start = two_rounds(make(), past)
    state = ClientState(pb.Content())
    start.condense(2, 7, {3: state})
    assert (past.given.entry.rounds, past.given.entry.round) == (2, 7)
    assert list(past.clients) == [3]
    return past.given


def test_the_loop_is_given_what_the_rounds_came_to_and_then_the_strategy_is_as_it_was(condensed):
    past, strategy = Past(condensed), make()
    random.seed(1)
    start = Start(strategy, 5, past)
    remembered = []
    for number in (1, 2):
        assert not start.goes_on(number, lambda *kept: remembered.append(kept))
        assert start.passed(number)
    assert start.trained(1) == (None, MetricRecord({"train": 1}))
    newest, metrics = start.trained(2)
    assert newest["w"].numpy().tolist() == [2.0, 2.0]
    assert metrics == MetricRecord({"train": 2})
    assert (start.evaluated(1), start.measured(2)) == (None, MetricRecord({"loss": 0.5}))
    assert strategy.momentum_vector is None
    assert past.forwarded is None
    assert start.goes_on(3, lambda *kept: remembered.append(kept))
    assert not start.passed(3)
    assert past.forwarded is condensed
    assert strategy.momentum_vector[0].tolist() == [2.0, 2.0]
    assert not start.goes_on(4, lambda *kept: None)


def test_it_can_be_condensed_again_with_what_was_before(condensed):
    past, strategy = Past(condensed), make()
    start = Start(strategy, 5, past)
    start.goes_on(3, lambda *kept: None)
    start.has_trained(3, None, MetricRecord({"train": 3}))
    start.condense(3, 8, {})
    start = Start(make(), 5, Past(past.given))
    assert [start.trained(number)[1] for number in (1, 2, 3)] == [
        MetricRecord({"train": number}) for number in (1, 2, 3)
    ]
    assert start.trained(2)[0] is not None, "the third round gave no arrays"
    assert start.trained(3)[0] is None


@pytest.mark.parametrize(
    ("strategy", "rounds", "said"),
    [(FedAdam, 5, "starts FedAdam for 5"), (FedAvgM, 2, "starts FedAvgM for 2")],
)
def test_an_app_that_starts_another_is_told(condensed, strategy, rounds, said):
    with pytest.raises(AppInvalid, match=f"2 rounds of FedAvgM have come to, .* {said}"):
        Start(strategy(), rounds, Past(condensed))


def test_an_attribute_of_a_strategy_that_it_does_not_wrap_any_more(condensed):
    start = Start(make(), 5, Past(condensed))
    start._later = {**start._later, "strategy": {"strategy.m_t": 1}}
    with pytest.raises(AppInvalid, match="has no attribute 'strategy'"):
        start.goes_on(3, lambda *kept: None)


def test_a_state_that_cannot_be_read_is_told(condensed):
    broken = Condensed(condensed.entry, (b"nonsense", []), {})
    with pytest.raises(Environment, match="no state that can be read"):
        Start(make(), 5, Past(broken))


def test_what_cannot_be_kept_is_named_once(caplog):
    past, strategy = Past(), make()
    start = two_rounds(strategy, past)
    strategy.model = object()
    for _ in range(2):
        start.condense(2, 2, {})
    assert past.given is None
    (line,) = caplog.messages
    assert line == (
        "the journal grows with every round: what FedAvgM is after a round cannot be kept, since "
        "its attribute model holds a builtins.object"
    )


def test_a_strategy_in_whose_rounds_another_was_started_is_not_condensed():
    past = Past()
    start = two_rounds(make(), past)
    Start(FedAvg(), 1, past)
    start.condense(2, 2, {})
    assert past.given is None


def test_flowers_lines_of_rounds_that_are_behind_are_left_out(condensed, caplog):
    caplog.set_level(logging.INFO)
    flower = logging.getLogger("flwr")
    start = Start(make(), 5, Past(condensed))
    start.goes_on(1, lambda *kept: None)
    flower.info("of a round that is behind")
    start.close()
    flower.info("of the next")
    said = [each.getMessage() for each in caplog.records if each.name.startswith("f")]
    assert "of a round that is behind" not in said
    assert "rounds 1 to 2 are behind, and not repeated" in said
    assert not flower.filters

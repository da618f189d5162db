"""Flower's classes are wrapped once per process; each test then listens with its own tracker."""

from __future__ import annotations

import inspect
import threading

import flwr.server.strategy as legacy
import numpy as np
import pytest
from fedkube_server.flower import hooks
from fedkube_server.flower.tracking import Tracker
from fedkube_server.halt import Halt, Halted
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Parameters, Status, ndarrays_to_parameters
from flwr.common import parameters_to_ndarrays as to_arrays
from flwr.server import Server, SimpleClientManager
from flwr.server.strategy.aggregate import aggregate
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)

from fedkube.core.errors import AppInvalid

pytestmark = pytest.mark.usefixtures("as_server")

NODES = [11, 12, 13]


class Idle:
    """Listens between the tests, so that what others do with strategies is nobody's business."""

    clients = 10**6
    central = False

    def __getattr__(self, _):
        return lambda *_, **__: None


class Listener(Tracker):
    """A tracker that also keeps the calls it got."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.calls = []

    def configured(self, name, number, strategy, aggregation, messages):
        self.calls.append(("configured", name, number, strategy, messages))
        super().configured(name, number, strategy, aggregation, messages)

    def aggregated(self, name, metrics, arrays):
        self.calls.append(("aggregated", name))
        super().aggregated(name, metrics, arrays)

    def measured(self, number, metrics):
        self.calls.append(("measured", number))
        super().measured(number, metrics)


class FakeGrid:
    """Answers each message as a client would; ``update`` makes the client's arrays."""

    def __init__(self, tracker, update=None):
        self._tracker = tracker
        self._update = update or (lambda node: np.full(2, float(node), "f4"))

    def get_node_ids(self):
        return list(NODES)

    def send_and_receive(self, messages, timeout=None):
        messages = list(messages)
        if not messages:
            return []
        phase = self._tracker.sending(messages).phase
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            self._tracker.recorder.settled(phase, NODES.index(node), None)
            content = RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": node})})
            if message.metadata.message_type == "train":
                content["arrays"] = ArrayRecord({"w": Array(self._update(node))})
            replies.append(Message(content, reply_to=message))
        return replies


@pytest.fixture
def tracker(make_recorder):
    tracker = Listener(make_recorder(), Halt(), NODES)
    hooks.install(Idle())
    hooks.install(tracker)
    yield tracker
    hooks.install(Idle())


def start(tracker, strategy, rounds=2, grid=None, **options):
    initial = ArrayRecord({"w": Array(np.zeros(2, "f4"))})
    return strategy.start(grid or FakeGrid(tracker), initial, num_rounds=rounds, **options)


def reported(tracker):
    return [(call[0], *call[1:3]) if call[0] == "configured" else call for call in tracker.calls]


ONE_ROUND = [
    ("configured", "train", 1),
    ("aggregated", "train"),
    ("configured", "evaluate", 1),
    ("aggregated", "evaluate"),
]


class BeforeInstall(FedAvg):
    """Defined when this module was imported, which is before any test runs."""

    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, replies)

    def configure_train(self, server_round, arrays, config, grid):
        return super().configure_train(server_round, arrays, config, grid)


# ------------------------------------------------------------- the message API


def test_a_run_of_a_strategy_is_recorded_round_by_round(tracker, folder):
    start(tracker, FedAvg())
    assert tracker.recorder.rounds_planned == 2
    rounds = folder.read_history()
    assert [each.round for each in rounds] == [1, 2]
    for each in rounds:
        assert sorted(each.phases["train"].clients) == [0, 1, 2]
        assert each.flat_metrics() == pytest.approx({"train.loss": 12.0, "evaluate.loss": 12.0})
    assert len(folder.checkpoints()) == 2


def test_the_arrays_are_those_of_the_strategy(tracker):
    result = start(tracker, FedAvg(), rounds=1)
    np.testing.assert_array_equal(tracker.recorder._arrays()["w"], result.arrays["w"].numpy())


@pytest.mark.parametrize("late", [False, True])
def test_a_class_is_watched_whether_it_was_defined_before_or_after(tracker, late):
    strategy = BeforeInstall
    if late:

        class AfterInstall(FedAvg):
            def aggregate_train(self, server_round, replies):
                return super().aggregate_train(server_round, replies)

        strategy = AfterInstall
    start(tracker, strategy(), rounds=1)
    assert reported(tracker) == ONE_ROUND


def test_a_strategy_that_wants_more_clients_than_there_are_is_told_so(tracker):
    for strategy in (FedAvg, BeforeInstall):
        with pytest.raises(AppInvalid, match="min_available_nodes is 4, and the run has 3 clients"):
            start(tracker, strategy(min_available_nodes=4))


def test_a_strategy_that_is_started_again_goes_on_counting(tracker, folder):
    start(tracker, FedAvg(), evaluate_fn=lambda number, arrays: MetricRecord({"a": 1.0}))
    assert tracker.recorder.rounds_planned == 2
    start(tracker, FedAvg(), evaluate_fn=lambda number, arrays: MetricRecord({"a": 2.0}))
    assert tracker.recorder.rounds_planned == 4
    tracker.recorder.close_round()
    assert [each.round for each in folder.read_history()] == [0, 1, 2, 3, 4]
    assert all(each.phases["train"].asked == 3 for each in folder.read_history()[1:])


def test_a_start_that_passes_everything_on_is_understood(tracker):
    class Passing(FedAvg):
        def start(self, grid, initial_arrays, **rest):
            return super().start(grid, initial_arrays, **rest)

    start(tracker, Passing(), evaluate_fn=lambda number, arrays: MetricRecord({"a": 1.0}))
    assert tracker.recorder.rounds_planned == 2
    assert [call for call in tracker.calls if call[0] == "measured"] == [
        ("measured", 0),
        ("measured", 1),
        ("measured", 2),
    ]


def test_a_subclass_of_a_subclass_counts_as_one(tracker):
    class Middle(BeforeInstall):
        def aggregate_train(self, server_round, replies):
            return super().aggregate_train(server_round, replies)

    class Last(Middle):
        def aggregate_train(self, server_round, replies):
            return super().aggregate_train(server_round, replies)

    start(tracker, Last(), rounds=1)
    assert reported(tracker) == ONE_ROUND


def test_a_strategy_that_wraps_another_counts_as_one(tracker):
    strategy = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.0, 1e9, 3)
    start(tracker, strategy, rounds=1)
    assert reported(tracker) == ONE_ROUND
    assert tracker.calls[0][3] is strategy


def test_a_strategy_from_scratch_is_watched(tracker):
    class Scratch(Strategy):
        def configure_train(self, server_round, arrays, config, grid):
            content = RecordDict({"arrays": arrays})
            yield from (Message(content, node, "train") for node in grid.get_node_ids())

        def aggregate_train(self, server_round, replies):
            return next(iter(replies)).content["arrays"], None

        def configure_evaluate(self, server_round, arrays, config, grid):
            return None

        def aggregate_evaluate(self, server_round, replies):
            return None

        def summary(self):
            pass

    start(tracker, Scratch(), rounds=1)
    assert reported(tracker) == ONE_ROUND
    assert len(tracker.calls[0][4]) == 3
    assert len(tracker.calls[2][4]) == 0


def test_names_of_parameters_are_the_apps_own_business(tracker):
    """Flower's loop hands them over by position, so any names work there."""

    class OtherNames(FedAvg):
        def configure_train(self, rnd, weights, settings, network):
            return super().configure_train(rnd, weights, settings, network)

        def aggregate_train(self, rnd, results):
            return super().aggregate_train(rnd, results)

        def configure_evaluate(self, *args):
            return super().configure_evaluate(*args)

    start(tracker, OtherNames(), rounds=1)
    assert reported(tracker) == ONE_ROUND


def test_a_strategy_may_have_its_own_start(tracker):
    class OwnStart(FedAvg):
        def start(self, grid, initial_arrays, num_rounds=3, **options):
            return super().start(grid, initial_arrays, num_rounds=num_rounds, **options)

    start(tracker, OwnStart(), rounds=1)
    assert tracker.recorder.rounds_planned == 1
    assert reported(tracker) == ONE_ROUND


def test_what_the_app_measures_itself_is_recorded(tracker, folder):
    seen = []

    def evaluate(server_round, arrays):
        seen.append(server_round)
        return MetricRecord({"accuracy": server_round / 10})

    result = start(tracker, FedAvg(), evaluate_fn=evaluate)
    assert seen == [0, 1, 2]
    assert [each.server for each in folder.read_history()] == [
        {"accuracy": 0.0},
        {"accuracy": 0.1},
        {"accuracy": 0.2},
    ]
    assert result.evaluate_metrics_serverapp[2]["accuracy"] == 0.2


def test_the_apps_measurement_may_be_handed_over_by_position(tracker, folder):
    initial = ArrayRecord({"w": Array(np.zeros(2, "f4"))})
    evaluate = lambda *_: MetricRecord({"a": 1.0})  # noqa: E731
    FedAvg().start(FakeGrid(tracker), initial, 1, 60, None, None, evaluate)
    assert [each.server for each in folder.read_history()] == [{"a": 1.0}, {"a": 1.0}]


def test_an_app_that_measures_nothing_this_time_is_no_error(tracker):
    start(tracker, FedAvg(), rounds=1, evaluate_fn=lambda *_: None)
    assert ("measured", 1) in tracker.calls


def test_after_an_aggregation_that_raised_the_next_is_reported(tracker):
    class Raises(FedAvg):
        def aggregate_evaluate(self, server_round, replies):
            raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        Raises().aggregate_evaluate(1, [])
    FedAvg().aggregate_evaluate(1, [])
    assert reported(tracker) == [("aggregated", "evaluate")]


def test_two_threads_do_not_take_each_other_for_nested(tracker):
    inside, go_on = threading.Event(), threading.Event()

    class Waits(FedAvg):
        def aggregate_evaluate(self, server_round, replies):
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=Waits().aggregate_evaluate, args=(1, []))
    thread.start()
    inside.wait(10)
    FedAvg().aggregate_evaluate(1, [])
    assert len(tracker.calls) == 1
    go_on.set()
    thread.join()
    assert len(tracker.calls) == 2


def test_a_round_in_which_all_failed_ends_the_run(tracker):
    class NobodyAnswers(FakeGrid):
        def send_and_receive(self, messages, timeout=None):
            self._tracker.sending(list(messages))
            return []

    with pytest.raises(Halted):
        start(tracker, FedAvg(), grid=NobodyAnswers(tracker))
    assert tracker.halt.ending.reason == "NoUpdates"


# ------------------------------------------------------------- enough clients


@pytest.mark.parametrize("option", ["min_available_nodes", "min_train_nodes", "min_evaluate_nodes"])
def test_a_strategy_that_needs_more_clients_than_there_are_is_refused_and_does_not_hang(
    tracker, option
):
    with pytest.raises(AppInvalid, match=f"{option} is 4, and the run has 3 clients") as raised:
        start(tracker, FedAvg(**{option: 4}))
    assert "--clients 4" in raised.value.hint


def test_the_wrapped_strategys_needs_count_too(tracker):
    wrapped = FedAvg(min_available_nodes=4)
    with pytest.raises(AppInvalid, match="min_available_nodes is 4"):
        start(tracker, DifferentialPrivacyServerSideFixedClipping(wrapped, 0.0, 1.0, 3))


def test_an_evaluation_that_is_left_out_needs_nobody(tracker):
    start(tracker, FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=9), rounds=1)
    assert tracker.halt.ending is None


def test_the_older_apis_needs_count_too(tracker):
    strategy = legacy.FedAvg(min_available_clients=4)
    with pytest.raises(AppInvalid, match="min_available_clients is 4"):
        strategy.configure_fit(1, Parameters([], ""), SimpleClientManager())


# ------------------------------------------------------------- what an app hands on to Flower


def test_what_flower_cannot_average_is_taken_out_before_an_app_hands_it_on(tracker, folder):
    def update(node):
        return np.full(2, np.nan if node == 12 else 1.0, "f4")

    result = start(tracker, BeforeInstall(), rounds=1, grid=FakeGrid(tracker, update))
    np.testing.assert_array_equal(result.arrays["w"].numpy(), np.ones(2))
    phase = folder.read_history()[0].phases["train"]
    assert sorted(phase.clients) == [0, 2]
    (failure,) = phase.failures
    assert failure.client == 1
    assert "NaN or infinity" in failure.reason


# ------------------------------------------------------------- the older API


class Proxy:
    def __init__(self, cid):
        self.cid = self.node_id = cid


def fit_result(cid, values, weight=1):
    parameters = ndarrays_to_parameters([np.asarray(values)])
    return Proxy(cid), FitRes(Status(Code.OK, ""), parameters, weight, {"loss": float(cid)})


def test_results_are_in_one_order_whatever_order_they_came_in(tracker):
    """Flower keeps them in a set, and a sum of floats depends on the order."""
    orders = []

    class Watches(legacy.FedAvg):
        def aggregate_fit(self, server_round, results, failures):
            orders.append([proxy.cid for proxy, _ in results])
            return super().aggregate_fit(server_round, results, failures)

    results = [fit_result(cid, values) for cid, values in ((11, 1e8), (12, 1.0), (13, -1e8))]
    sums = [
        to_arrays(Watches().aggregate_fit(1, order, [])[0])[0].tobytes()
        for order in (results, results[::-1], results[1:] + results[:1])
    ]
    assert orders == [[11, 12, 13]] * 3
    assert len(set(sums)) == 1


def test_the_older_apis_rounds_are_reported(tracker):
    tracker.calls.clear()
    legacy.FedAvg().aggregate_fit(1, [fit_result(11, [1.0, 2.0])], [])
    assert reported(tracker) == [("aggregated", "train")]
    np.testing.assert_array_equal(tracker.recorder._arrays()["0"], [1.0, 2.0])


def test_an_older_strategys_own_measurement_is_recorded(tracker, folder):
    strategy = legacy.FedAvg(evaluate_fn=lambda *_: (0.5, {"accuracy": 0.9}))
    strategy.evaluate(0, ndarrays_to_parameters([np.zeros(1)]))
    tracker.recorder.close_round()
    assert folder.read_history()[0].server == {"loss": 0.5, "accuracy": 0.9}


def test_the_older_apis_names_of_parameters_are_the_apps_own_business(tracker):
    """Flower's server hands these over by position; `rnd` is what its first releases said."""

    class OtherNames(legacy.FedAvg):
        def aggregate_fit(self, rnd, outcomes, problems):
            return super().aggregate_fit(rnd, outcomes, problems)

        def evaluate(self, rnd, parameters):
            return 0.5, {}

    strategy = OtherNames()
    strategy.aggregate_fit(1, [fit_result(11, [1.0])], [])
    strategy.evaluate(0, parameters=Parameters([], ""))
    assert reported(tracker) == [("aggregated", "train"), ("measured", 0)]


def test_the_older_server_says_how_many_rounds_there_will_be(tracker):
    class AsksNobody(legacy.FedAvg):
        def configure_fit(self, server_round, parameters, client_manager):
            return []

        def configure_evaluate(self, server_round, parameters, client_manager):
            return []

    strategy = AsksNobody(initial_parameters=ndarrays_to_parameters([np.zeros(1)]))
    Server(client_manager=SimpleClientManager(), strategy=strategy).fit(5, None)
    assert tracker.recorder.rounds_planned == 5


def test_parameters_that_are_no_arrays_are_no_model(tracker):
    class Trees(legacy.FedAvg):
        def aggregate_fit(self, server_round, results, failures):
            return Parameters([b"a booster"], ""), {}

    Trees().aggregate_fit(1, [], [])
    assert tracker.recorder._arrays is None


def test_flowers_signatures_are_not_changed(tracker):
    """An app may inspect them, as Flower's own wrappers do."""
    assert list(inspect.signature(FedAvg.configure_train).parameters)[1:3] == [
        "server_round",
        "arrays",
    ]
    assert FedAvg.aggregate_train.__module__ == "flwr.serverapp.strategy.fedavg"


def test_an_older_strategy_may_take_whatever_it_is_called_with(tracker):
    """Flower's server calls these by keyword."""

    class Anything(legacy.FedAvg):
        def configure_fit(self, **anything):
            return []

        def aggregate_fit(self, *anything):
            return super().aggregate_fit(*anything)

    strategy = Anything()
    assert (
        strategy.configure_fit(
            server_round=1, parameters=Parameters([], ""), client_manager=SimpleClientManager()
        )
        == []
    )
    strategy.aggregate_fit(1, [fit_result(11, [1.0])], [])
    assert reported(tracker) == [("configured", "train", 1), ("aggregated", "train")]


def test_what_the_older_flower_cannot_average_is_taken_out_before_an_app_hands_it_on(tracker):
    failed = []

    class Own(legacy.FedAvg):
        def configure_fit(self, server_round, parameters, client_manager):
            return [("proxy", "instructions")] * 2

        def aggregate_fit(self, server_round, results, failures):
            aggregated = super().aggregate_fit(server_round, results, failures)
            failed.extend(failures)
            return aggregated

    strategy = Own()
    strategy.configure_fit(1, Parameters([], ""), SimpleClientManager())
    phase = tracker.recorder._current.phases["train"]
    for client in (0, 1):
        tracker.recorder.settled(phase, client, None)
    results = [fit_result(11, [1.0, 3.0]), fit_result(12, [np.nan, 1.0])]
    parameters, _ = strategy.aggregate_fit(1, results, [])
    assert to_arrays(parameters)[0].tolist() == [1.0, 3.0]
    assert phase.clients == [0]
    assert phase.failures[0].client == 1
    assert failed == [], "the app's own list is not touched"


def test_an_older_app_may_change_a_mean_in_place_that_no_client_has_changed():
    class Summed:
        def mean(self, weights):
            assert weights == [3, 4]
            return {"same": np.frombuffer(bytes(8), np.float32), "new": np.ones(2)}

    results = [([np.zeros(0)], 3), ([np.zeros(0)], 4)]
    same, new = hooks._average_results(Summed(), aggregate, (results,), {})
    same += 1
    new += 1
    assert (same.tolist(), new.tolist()) == ([1, 1], [2, 2])

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fedkube_server.flower import tracking
from fedkube_server.flower.rules import admit_anything, fold_for
from fedkube_server.flower.tracking import (
    Tracker,
    category,
    mean_metrics,
    numbers,
    plain_arrays,
)
from fedkube_server.halt import Halt, Halted
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedkube.app.arrays import from_bytes
from fedkube.core.errors import Environment

pytestmark = pytest.mark.usefixtures("as_server")


@pytest.fixture
def tracker(make_recorder):
    return Tracker(make_recorder(), Halt(), [11, 12, 13])


def message(kind="train", content=None):
    return Message(RecordDict() if content is None else content, 11, kind)


def answered(**metrics):
    return Message(RecordDict({"m": MetricRecord(metrics)}), reply_to=message())


def failed():
    return Message(Error(0, "it raised"), reply_to=message())


# ------------------------------------------------------------- numbers


def test_numbers_become_plain_python():
    plain = numbers({"a": np.float32(0.5), "b": np.int64(3), "c": True, "d": 1, "e": 2.5})
    assert plain == {"a": 0.5, "b": 3, "c": 1, "d": 1, "e": 2.5}
    assert [type(value) for value in plain.values()] == [float, int, int, int, float]


def test_lists_of_numbers_stay_and_what_is_no_number_goes():
    metrics = {"l": [1, 2.5], "t": "text", "b": b"x", "n": None, "m": ["a"], "d": {}}
    assert numbers(metrics) == {"l": [1, 2.5]}


def test_nan_and_infinity_are_numbers():
    assert math.isnan(numbers({"loss": math.nan})["loss"])
    assert numbers({"loss": math.inf}) == {"loss": math.inf}


def test_means_are_plain_and_over_the_clients_that_answered():
    assert mean_metrics([answered(a=1, b=2.0), failed(), answered(a=2, b=4.0)]) == {
        "a": 1.5,
        "b": 3.0,
    }


def test_a_metric_that_not_all_sent_has_no_mean():
    assert mean_metrics([answered(a=1, b=1), answered(a=3)]) == {"a": 2}


def test_lists_and_nothing_have_no_mean():
    assert mean_metrics([answered(a=[1, 2])]) == {}
    assert mean_metrics([]) == {}
    assert mean_metrics([failed()]) == {}


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        (["train"], "train"),
        (["train.fast", "train.slow"], "train"),
        (["evaluate"], "evaluate"),
        (["query.hello"], "query"),
        (["get_properties"], "query"),
        (["train", "evaluate"], "query"),
        ([], "query"),
    ],
)
def test_a_phase_is_known_by_its_messages(kinds, name):
    assert category([message(kind) for kind in kinds]) == name


# ------------------------------------------------------------- arrays


def test_arrays_are_fetched_when_they_are_needed_and_not_before():
    data = np.arange(2, dtype="<f4").tobytes()
    came = from_bytes(memoryview(data), "float32", (2,), "numpy.ndarray")
    record = ArrayRecord()
    record["came"], record["own"] = came, Array(np.ones(3))
    record["opaque"] = Array("", (), "my.own", b"\x01\x02")
    fetch = plain_arrays(record)
    record.clear()
    arrays = fetch()
    assert arrays["came"] is came.elements
    assert arrays["own"].tolist() == [1, 1, 1]
    assert arrays["opaque"].tolist() == [1, 2]


# ------------------------------------------------------------- phases


def test_a_phase_that_no_strategy_declared_is_counted_by_what_is_sent(tracker):
    handling = tracker.sending([message("query.x"), message("query.y")])
    assert handling.admit is admit_anything
    assert (handling.phase.message_type, handling.phase.asked) == ("query.x", 2)
    assert (handling.declared, handling.fold) == (False, None)


def test_its_metrics_are_means(tracker):
    phase = tracker.sending([message()]).phase
    tracker.collected(phase, [answered(loss=1), answered(loss=2)])
    assert phase.metrics == {"loss": 1.5}
    tracker.collected(phase, [answered(loss=9)])
    assert phase.metrics == {"loss": 1.5}, "what is there already stays"


def test_a_phase_that_a_strategy_declared_has_its_check_and_its_metrics(tracker):
    made = [message(), message()]
    tracker.configured("train", 1, FedAvg(), "aggregate_train", made)
    handling = tracker.sending(made)
    phase = handling.phase
    assert handling.admit is not admit_anything
    assert (phase.asked, handling.declared) == (2, True)
    tracker.collected(phase, [answered(loss=1)])
    assert phase.metrics == {}
    phase.clients.append(0)
    tracker.aggregated("train", MetricRecord({"loss": 7.0}), None)
    assert phase.metrics == {"loss": 7.0}


def test_messages_of_another_kind_are_not_the_declared_phase(tracker):
    tracker.configured("train", 1, FedAvg(), "aggregate_train", [message(), message()])
    handling = tracker.sending([message("query")])
    assert handling.admit is admit_anything
    assert (handling.phase.message_type, handling.declared) == ("query", False)


def test_messages_that_the_strategy_did_not_make_are_the_apps_own_protocol(tracker):
    tracker.configured("train", 1, FedAvg(), "aggregate_train", [message(), message()])
    handling = tracker.sending([message(), message()])
    assert handling.admit is admit_anything
    assert (handling.phase.asked, handling.declared) == (2, True)


def test_what_was_not_checked_as_it_came_is_checked_before_it_is_averaged(tracker):
    tracker.configured("train", 1, FedAvg(), "aggregate_train", [message(), message()])
    tracker.sending([message(), message()])
    contents = [answered(loss=1).content, answered(**{"num-examples": 3}).content]
    replies = list(zip((11, 12), contents, strict=True))
    reasons = tracker.unfit(FedAvg(), FedAvg.aggregate_train, replies)
    assert reasons == ["its metrics lack 'num-examples', the weight of the average", None]


def test_messages_that_are_sent_from_several_threads_have_one_sum(tracker, monkeypatch):
    """As Flower's older API sends them; the pause is where threads took turns."""

    def slowly(*words):
        time.sleep(0.05)
        return fold_for(*words)

    monkeypatch.setattr(tracking, "fold_for", slowly)
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(3, np.float32))})})
    sent = [message(content=content) for _ in range(4)]
    tracker.configured("train", 1, FedAvg(), "aggregate_train", sent)
    with ThreadPoolExecutor(4) as threads:
        handlings = list(threads.map(lambda each: tracker.sending([each]), sent))
    folds = {id(each.fold) for each in handlings}
    assert None not in [each.fold for each in handlings]
    assert len(folds) == 1


def test_a_strategy_that_asks_nobody_declares_nothing(tracker):
    tracker.configured("evaluate", 1, FedAvg(), "aggregate_evaluate", [])
    assert tracker.recorder.asked == 0


def test_a_round_that_nobody_trained_in_ends_the_run(tracker):
    tracker.configured("train", 1, FedAvg(), "aggregate_train", [message(), message()])
    phase = tracker.sending([message(), message()]).phase
    tracker.recorder.settled(phase, 0, "Traceback\n  x\nValueError: no data\n")
    tracker.recorder.settled(phase, 1, "also")
    with pytest.raises(Halted):
        tracker.aggregated("train", None, None)
    ending = tracker.halt.ending
    assert ending.reason == "NoUpdates"
    assert ending.message == "all 2 clients of a round failed: ValueError: no data"
    assert ending.details.startswith("Traceback")


def test_a_round_of_which_nothing_was_sent_ends_the_run(tracker):
    tracker.configured("train", 1, FedAvg(), "aggregate_train", [message(), message()])
    tracker.sending([message(), message()])
    tracker.unsent = "array 'w' cannot travel"
    with pytest.raises(Halted, match="none of the 2 messages of a round could be sent: array 'w'"):
        tracker.aggregated("train", None, None)


def test_an_evaluation_that_nobody_answered_does_not(tracker):
    tracker.configured("evaluate", 1, FedAvg(), "aggregate_evaluate", [message(), message()])
    tracker.aggregated("evaluate", None, None)
    assert tracker.halt.ending is None


def test_a_round_that_cannot_be_written_ends_the_run_whatever_the_app_catches(tracker, monkeypatch):
    def full(*_):
        raise Environment("the disk is full")

    tracker.configured("train", 1, FedAvg(), "aggregate_train", [message(), message()])
    monkeypatch.setattr(tracker.recorder, "close_round", full)
    with pytest.raises(Halted):
        tracker.aggregated("evaluate", None, None)
    assert tracker.halt.ending.reason == "Environment"


@pytest.mark.parametrize(("central", "written"), [(False, [1]), (True, [])])
def test_a_round_is_over_after_its_last_measurement(tracker, folder, central, written):
    tracker.central = central
    tracker.configured("evaluate", 1, FedAvg(), "aggregate_evaluate", [message(), message()])
    tracker.aggregated("evaluate", MetricRecord({"loss": 1.0}), None)
    assert [each.round for each in folder.read_history()] == written
    tracker.measured(1, {"accuracy": 0.5})
    if central:
        assert [each.round for each in folder.read_history()] == [1]

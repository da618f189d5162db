from __future__ import annotations

import math

import flwr.server.strategy as legacy
import numpy as np
import pytest
from fedkube_server.calls import Answer
from fedkube_server.flower.rules import admission, admit_anything, is_flowers, unfit
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as message_api

from fedkube.app.records import Encoder
from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb

SENT = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros((2, 3), "f4"))})})


def answer(records):
    encoder = Encoder()
    content = encoder.encode(records)
    return Answer(pb.Outcome(content=content), [memoryview(bytes(b)) for b in encoder.blobs])


def reply(values=None, *, weight="num-examples", **metrics):
    values = np.ones((2, 3), "f4") if values is None else np.asarray(values, "f4")
    numbers = {weight: 4, **metrics}
    return RecordDict(
        {"arrays": ArrayRecord({"w": Array(values)}), "metrics": MetricRecord(numbers)}
    )


def refused(strategy, records, aggregation="aggregate_train", sent=SENT):
    """Why the reply does not count, or None."""
    came = answer(records)
    reason = admission(strategy, aggregation, sent)(came)
    assert came.records is not None, "the records are decoded once, by admission"
    return reason


class OwnAggregation(message_api.FedAvg):
    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, replies)


class OwnSelection(message_api.FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        return super().configure_train(server_round, arrays, config, grid)


class OwnLegacy(legacy.FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        return super().aggregate_fit(server_round, results, failures)


def private(inner):
    return message_api.DifferentialPrivacyServerSideFixedClipping(inner, 1.0, 1.0, 2)


AVERAGING = [
    message_api.FedAvg(),
    message_api.FedAvgM(),
    message_api.FedMedian(),
    message_api.FedTrimmedAvg(),
    message_api.Krum(num_malicious_nodes=1),
    message_api.QFedAvg(client_learning_rate=0.1),
    OwnSelection(),
    private(message_api.FedAvg()),
]


@pytest.mark.parametrize("strategy", AVERAGING, ids=lambda each: type(each).__name__)
def test_what_flowers_averages_take(strategy):
    assert refused(strategy, reply()) is None
    assert "NaN or infinity" in refused(strategy, reply(np.full((2, 3), np.nan)))
    assert "NaN or infinity" in refused(strategy, reply(np.full((2, 3), np.inf)))
    assert "has shape [3, 2]" in refused(strategy, reply(np.ones((3, 2))))
    assert "lack 'num-examples'" in refused(strategy, reply(weight="n"))
    two = reply()
    two["more"] = ArrayRecord([np.ones(1)])
    assert "2 array records" in refused(strategy, two)


def test_other_element_types_may_come_back():
    """An average of integers is real."""
    sent = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros((2, 3), "i8"))})})
    assert refused(message_api.FedAvg(), reply(), sent=sent) is None


def test_the_strategys_own_name_of_the_weight_counts():
    strategy = message_api.FedAvg(weighted_by_key="samples")
    assert refused(strategy, reply(weight="samples")) is None
    assert refused(private(strategy), reply(weight="samples")) is None
    assert "lack 'samples'" in refused(strategy, reply())


@pytest.mark.parametrize("weight", [0, -3, math.nan, [1, 2]])
def test_a_weight_that_is_no_positive_number_is_refused(weight):
    records = reply(**{"num-examples": weight})
    assert "must be" in refused(message_api.FedAvg(), records)


def test_the_weight_may_be_in_any_metric_record():
    records = reply(weight="loss")
    records["more"] = MetricRecord({"num-examples": 3})
    assert refused(message_api.FedAvg(), records) is None


def test_evaluation_needs_its_weight_and_no_arrays():
    strategy = message_api.FedAvg()
    numbers = RecordDict({"metrics": MetricRecord({"num-examples": 3, "loss": math.nan})})
    assert refused(strategy, numbers, "aggregate_evaluate") is None
    assert "lack" in refused(strategy, RecordDict(), "aggregate_evaluate")


def test_trees_are_passed_on_whatever_their_size():
    records = RecordDict(
        {
            "arrays": ArrayRecord([np.frombuffer(b"a booster", "u1")]),
            "metrics": MetricRecord({"num-examples": 3}),
        }
    )
    for strategy in (message_api.FedXgbBagging(), message_api.FedXgbCyclic()):
        assert refused(strategy, records) is None
        records["metrics"]["num-examples"] = 0
        assert "above zero" in refused(strategy, records)
        records["metrics"]["num-examples"] = 3


@pytest.mark.parametrize("strategy", [OwnAggregation(), private(OwnAggregation()), object()])
def test_an_apps_own_aggregation_may_take_anything(strategy):
    assert refused(strategy, reply(np.full((9,), np.nan), weight="x")) is None
    assert refused(strategy, RecordDict()) is None


# ------------------------------------------------------------- the older API


def fit_result(*arrays, stype="numpy.ndarray", weight=4):
    """As Flower's compatibility layer packs a FitRes."""
    record = ArrayRecord()
    for index, array in enumerate(arrays):
        data = array if isinstance(array, bytes) else Array(array).data
        record[str(index)] = Array("", (), stype, data)
    return RecordDict(
        {
            "fitres.parameters": record,
            "fitres.num_examples": MetricRecord({"num_examples": weight}),
        }
    )


LEGACY_SENT = fit_result(np.zeros((2, 3), "f4"))


def test_the_older_fedavg():
    strategy = legacy.FedAvg()

    def why(records):
        return refused(strategy, records, "aggregate_fit", LEGACY_SENT)

    assert why(fit_result(np.ones((2, 3)))) is None
    assert "NaN or infinity" in why(fit_result(np.full((2, 3), np.nan)))
    assert "has shape [6]" in why(fit_result(np.ones(6)))
    assert "adds '1'" in why(fit_result(np.ones((2, 3)), np.ones(1)))
    assert "above zero" in why(fit_result(np.ones((2, 3)), weight=0))


def test_the_older_fedavgs_evaluation():
    numbers = RecordDict({"evaluateres.num_examples": MetricRecord({"num_examples": 3})})
    assert refused(legacy.FedAvg(), numbers, "aggregate_evaluate") is None


def test_the_older_strategies_of_trees_take_what_is_no_numpy_array():
    """Flower's own example sends `Parameters(tensor_type="", tensors=[booster])`."""
    records = fit_result(b"a booster", stype="")
    sent = fit_result(b"", stype="")
    assert refused(legacy.FedXgbBagging(), records, "aggregate_fit", sent) is None


def test_an_apps_own_older_aggregation_may_take_anything():
    assert refused(OwnLegacy(), reply(weight="x"), "aggregate_fit", LEGACY_SENT) is None


# ------------------------------------------------------------- what a peer may not slip through


def reason_or_rejection(strategy, came, aggregation="aggregate_train", sent=SENT):
    try:
        return admission(strategy, aggregation, sent)(came)
    except Rejected as error:
        return error.message


def test_bytes_that_hide_their_elements_are_not_averaged():
    """Marked as opaque, NaN or another shape would reach the average unseen, by way of np.load."""
    came = answer(reply(np.full((2, 3), np.nan)))
    (item,) = came.outcome.content.records[0].arrays.items
    came.blobs[item.blob] = memoryview(Array(np.full((7,), np.nan, "f4")).data)
    item.opaque = True
    assert reason_or_rejection(message_api.FedAvg(), came)


@pytest.mark.parametrize(
    "strategy", [message_api.FedAvg(), message_api.FedXgbBagging()], ids=["FedAvg", "trees"]
)
def test_an_encoding_of_the_apps_own_without_type_and_shape_is_no_crash(strategy):
    records = reply()
    records["arrays"]["w"] = Array("", (), "my.own", b"whatever")
    reason = reason_or_rejection(strategy, answer(records))
    assert isinstance(strategy, message_api.FedXgbBagging) or reason


def test_an_encoding_of_the_apps_own_is_not_averaged_whatever_it_says_of_itself():
    records = reply()
    records["arrays"]["w"] = Array("float32", (2, 3), "my.own", b"whatever")
    assert "array 'w' is not serialised as NumPy's" in refused(message_api.FedAvg(), records)
    assert refused(OwnAggregation(), records) is None


def test_where_the_app_sent_its_own_encoding_nothing_is_compared():
    sent = RecordDict({"arrays": ArrayRecord({"w": Array("", (7,), "my.own", b"x")})})
    assert refused(message_api.FedAvg(), reply(np.ones(5)), sent=sent) is None


def test_replies_are_decoded_even_where_anything_goes():
    came = answer(reply())
    assert admit_anything(came) is None
    assert came.records == reply()
    del came.blobs[:]
    with pytest.raises(Rejected):
        admit_anything(came)


# ------------------------------------------------------------- whose method is it


@pytest.mark.parametrize(
    ("strategy", "method", "flowers"),
    [
        (message_api.FedAvg(), "aggregate_train", True),
        (OwnAggregation(), "aggregate_train", False),
        (OwnAggregation(), "aggregate_evaluate", True),
        (OwnSelection(), "configure_train", False),
        (private(message_api.FedAvg()), "aggregate_train", True),
        (private(OwnAggregation()), "aggregate_train", False),
        (legacy.FedAvg(), "aggregate_fit", True),
        (OwnLegacy(), "aggregate_fit", False),
        (object(), "aggregate_train", False),
    ],
)
def test_whether_a_method_is_flowers(strategy, method, flowers):
    assert is_flowers(strategy, method) is flowers


# ------------------------------------------------------------- what an app hands on to Flower


def test_what_an_app_hands_on_is_checked_as_flower_would_need_it():
    nan = reply(np.full((2, 3), np.nan))
    reasons = unfit([reply(), nan, reply(weight="x")], SENT, "num-examples")
    assert reasons[0] is None
    assert "NaN or infinity" in reasons[1]
    assert "lack 'num-examples'" in reasons[2]


def test_a_reply_that_differs_from_the_others_is_unfit():
    reasons = unfit([reply(), reply(np.ones(5))], SENT, "num-examples")
    assert reasons[0] is None
    assert "has shape [5]" in reasons[1]


def test_an_app_may_make_other_arrays_of_all_the_replies():
    five = [reply(np.ones(5)), reply(np.full(5, np.nan))]
    reasons = unfit(five, SENT, "num-examples")
    assert reasons[0] is None
    assert "NaN or infinity" in reasons[1]

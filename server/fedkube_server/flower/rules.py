"""What a strategy needs of a reply, decided by the code that will aggregate it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import SType
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from fedkube.app.arrays import FoldedArray, WireArray
from fedkube.app.records import decode
from fedkube.core.admission import Expected, Shape, refusal
from fedkube.core.aggregation import STATED, Aggregation
from fedkube.core.errors import AppInvalid
from fedkube_server.calls import Admission, Answer
from fedkube_server.folds import Fold

# Flower's strategies that take replies' bytes as they are, and have an encoding of their own.
_NOT_AVERAGED = ("fedxgb_bagging", "fedxgb_cyclic", "fedxgb_nn_avg", "fedavg_android")
# Flower's modules whose aggregation is a weighted mean, or makes something of one alone.
_MEANS = (
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedopt",
    "fedadam",
    "fedyogi",
    "fedadagrad",
    "fault_tolerant_fedavg",
)
# Flower's strategies around another that leave its replies as they are.
_CLIENT_SIDE = "DifferentialPrivacyClientSide"
_LEGACY_WEIGHT = "num_examples"


def admit_anything(answer: Answer) -> str | None:
    """Decode the reply; its meaning is between the app's two halves."""
    answer.records = decode(answer.outcome.content, answer.blobs)
    return None


# The records of a message that Flower's older API makes of an instruction.
_LEGACY_RECORDS = (
    {"fitins.parameters", "fitins.config"},
    {"evaluateins.parameters", "evaluateins.config"},
)


def are_the_strategys(messages: Sequence[Message], made: Sequence[object]) -> bool:
    """Whether messages are those that the strategy has made, or instructions of it as they are."""
    own = {id(message) for message in made}
    if all(id(message) in own for message in messages):
        return True
    return all(
        message.has_content() and set(message.content) in _LEGACY_RECORDS for message in messages
    )


def averages(aggregation: Callable[..., object]) -> bool:
    """Whether a method of Flower's averages arrays, instead of passing them on."""
    return aggregation.__module__.rpartition(".")[2] not in _NOT_AVERAGED


def takes_mean(strategy: object, aggregation: str, says: Aggregation | None) -> bool:
    """Whether the strategy needs no more than the weighted mean of the updates.

    So it is where the aggregation is one of Flower's that averages, and nothing of the app's own
    is shown the updates. AppInvalid where the app states a mean and the strategy cannot do with it.
    """
    if says is Aggregation.EVERY_UPDATE:
        return False
    if says is Aggregation.MEAN:
        if is_flowers(strategy, aggregation) and not _is_mean(strategy, aggregation):
            raise AppInvalid(
                f"the run config's {STATED} is mean, and the strategy "
                f"{type(_inner(strategy)).__name__} needs the update of every client",
                hint=f"leave {STATED} out of the run config",
            )
        return True
    # What is given the clients' records whole may look at their arrays.
    inner = _inner(strategy)
    metrics = getattr(inner, "train_metrics_aggr_fn", aggregate_metricrecords)
    check = getattr(inner, "_check_and_log_replies", None)
    return (
        is_flowers(strategy, aggregation)
        and _is_mean(strategy, aggregation)
        and metrics is aggregate_metricrecords
        and getattr(check, "__module__", "flwr.").startswith("flwr.")
    )


def _is_mean(strategy: object, aggregation: str) -> bool:
    method = getattr(type(strategy), aggregation, None)
    module, _, name = getattr(method, "__qualname__", "").rpartition(".")
    if module.startswith(_CLIENT_SIDE):
        return _is_mean(_inner(strategy), aggregation)
    home = getattr(method, "__module__", "").rpartition(".")[2]
    return home in _MEANS and not module.startswith("DifferentialPrivacy") and name == aggregation


def _inner(strategy: object) -> object:
    return getattr(strategy, "strategy", strategy)


def fold_for(strategy: object, aggregation: str, sent: RecordDict, cohort: int) -> Fold | None:
    """The sum that a strategy's updates go into, or None where they cannot be summed."""
    shapes = _shapes(sent)
    if shapes is None:
        return None
    if is_legacy(strategy) and not all(map(_real, _elements(sent))):
        return None  # Flower's older API averages integers in place, as integers
    return Fold(shapes, weight_key(strategy, aggregation), cohort)


def admit_folded(fold: Fold) -> Admission:
    """Decode a reply whose arrays go into a sum."""
    stand_ins = ArrayRecord()
    for name, shape in fold.shapes.items():
        stand_ins[name] = FoldedArray(name, shape)  # the constructor would make plain copies

    def admit(answer: Answer) -> str | None:
        answer.records = decode(answer.outcome.content, answer.blobs, folded=stand_ins)
        return None

    return admit


def _elements(sent: RecordDict) -> Iterator[Array]:
    for record in sent.array_records.values():
        yield from record.values()


def _real(array: Array) -> bool:
    elements = array.elements if isinstance(array, WireArray) else None
    kind = (array.numpy() if elements is None else elements).dtype.kind
    return kind == "f"


def admission(
    strategy: object, aggregation: str, sent: RecordDict | None
) -> Callable[[Answer], str | None]:
    """The check for replies that ``strategy`` will hand to its method ``aggregation``.

    Only Flower's own aggregations have rules that are known here; an app's own may do anything.
    """
    if not is_flowers(strategy, aggregation):
        return admit_anything
    inner = getattr(strategy, "strategy", strategy)
    trains = aggregation in ("aggregate_train", "aggregate_fit")
    averaged = trains and averages(getattr(type(inner), aggregation))
    expected = Expected(
        arrays=_shapes(sent) if averaged and sent is not None else None,
        weight_key=weight_key(strategy, aggregation),
    )

    def admit(answer: Answer) -> str | None:
        answer.records = decode(answer.outcome.content, answer.blobs)
        return _refusal(expected, answer.records, averaged=averaged)

    return admit


def unfit(contents: Sequence[RecordDict], sent: RecordDict | None, key: str) -> list[str | None]:
    """For replies that an app's own code hands to Flower's averaging: why each may not count.

    The app may have made other arrays of them than were sent. Where none of them has the arrays
    that were sent, that is its way, and only their values are checked.
    """
    shapes = _shapes(sent) if sent is not None else None
    if shapes is not None and not any(shapes in _all_shapes(each) for each in contents):
        shapes = None
    strict = Expected(arrays=shapes, weight_key=key)
    return [_refusal(strict, each, averaged=True) for each in contents]


def _refusal(expected: Expected, records: RecordDict, *, averaged: bool) -> str | None:
    metrics: dict[str, object] = {}
    for record in records.metric_records.values():
        metrics |= dict(record)
    if not averaged:
        return refusal(expected, [], metrics, None)
    foreign = _not_numpy(records)
    if foreign is not None:
        return f"array {foreign!r} is not serialised as NumPy's, so it cannot be averaged"
    return refusal(expected, _all_shapes(records), metrics, _not_finite(records))


def _all_shapes(records: RecordDict) -> list[dict[str, Shape]]:
    return [_record_shapes(record) for record in records.array_records.values()]


def legacy_content(result: Any) -> RecordDict:
    """A ``FitRes`` as the records that it came in."""
    return fitres_to_recorddict(result, keep_input=True)


def is_flowers(strategy: object, aggregation: str) -> bool:
    """Whether the method is Flower's; of a strategy that wraps another, whether both are."""
    inner = getattr(strategy, "strategy", None)
    if inner is not None and not is_flowers(inner, aggregation):
        return False
    method = getattr(type(strategy), aggregation, None)
    return getattr(method, "__module__", "").startswith("flwr.")


def weight_key(strategy: object, aggregation: str) -> str:
    """The metric that weighs a reply in the strategy's average."""
    if aggregation == "aggregate_fit" or is_legacy(strategy):
        return _LEGACY_WEIGHT
    inner = getattr(strategy, "strategy", strategy)
    return str(getattr(inner, "weighted_by_key", "num-examples"))


def is_legacy(strategy: object) -> bool:
    """Whether it is one of Flower's older API."""
    return hasattr(strategy, "aggregate_fit")


def _shapes(sent: RecordDict) -> dict[str, Shape] | None:
    """What was sent, where it is one record of arrays whose elements are known."""
    records = list(sent.array_records.values())
    if len(records) != 1 or not records[0]:
        return None
    if any(array.stype != SType.NUMPY for array in records[0].values()):
        return None
    return _record_shapes(records[0])


def _record_shapes(record: ArrayRecord) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for name, array in record.items():
        if isinstance(array, WireArray) and array.elements is not None:
            shapes[name] = array.elements.shape
        elif array.stype == SType.NUMPY:
            # Made here and not received. Flower's older API leaves its shape to the bytes.
            shapes[name] = tuple(array.shape) if array.dtype else array.numpy().shape
        else:
            shapes[name] = tuple(array.shape)
    return shapes


def _not_numpy(records: RecordDict) -> str | None:
    """The name of the first array whose elements only the app knows."""
    arrays = (each for record in records.array_records.values() for each in record.items())
    return next((name for name, array in arrays if array.stype != SType.NUMPY), None)


def _not_finite(records: RecordDict) -> str | None:
    """The name of the first array that holds NaN or infinity."""
    for record in records.array_records.values():
        for name, array in record.items():
            elements: Any = array.elements if isinstance(array, WireArray) else None
            if elements is None and array.stype == SType.NUMPY:
                elements = array.numpy()
            real = elements is not None and elements.dtype.kind == "f"
            if real and not np.isfinite(elements).all():
                return name
    return None

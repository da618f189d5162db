"""What a strategy needs of a reply, decided by the code that will aggregate it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from fedkube.app.arrays import WireArray
from fedkube.app.records import decode
from fedkube.core.admission import Expected, Shape, refusal
from fedkube_server.driver import Answer

# Flower's strategies that pass replies' bytes on instead of averaging them.
_NOT_AVERAGED = ("fedxgb_bagging", "fedxgb_cyclic", "fedxgb_nn_avg")
_LEGACY_WEIGHT = "num_examples"


def admit_anything(answer: Answer) -> str | None:
    """Decode the reply; its meaning is between the app's two halves."""
    answer.records = decode(answer.reply.content, answer.blobs)
    return None


def admission(
    strategy: object, aggregation: str, sent: RecordDict | None
) -> Callable[[Answer], str | None]:
    """The check for replies that ``strategy`` will hand to its method ``aggregation``.

    Only Flower's own aggregations have rules that are known here; an app's own may do anything.
    """
    if not is_flowers(strategy, aggregation):
        return admit_anything
    trains = aggregation in ("aggregate_train", "aggregate_fit")
    averaged = trains and _module(strategy, aggregation) not in _NOT_AVERAGED
    expected = Expected(
        arrays=_shapes(sent) if averaged and sent is not None else None,
        weight_key=_weight_key(strategy, aggregation),
    )

    def admit(answer: Answer) -> str | None:
        records: RecordDict = decode(answer.reply.content, answer.blobs)
        answer.records = records
        shapes = [_record_shapes(record) for record in records.array_records.values()]
        metrics: dict[str, object] = {}
        for record in records.metric_records.values():
            metrics |= dict(record)
        bad = _not_finite(records) if expected.arrays is not None else None
        return refusal(expected, shapes, metrics, bad)

    return admit


def is_flowers(strategy: object, aggregation: str) -> bool:
    """Whether the method is Flower's; of a strategy that wraps another, whether both are."""
    inner = getattr(strategy, "strategy", None)
    if inner is not None and not is_flowers(inner, aggregation):
        return False
    method = getattr(type(strategy), aggregation, None)
    return getattr(method, "__module__", "").startswith("flwr.")


def _module(strategy: object, aggregation: str) -> str:
    inner = getattr(strategy, "strategy", strategy)
    return str(getattr(type(inner), aggregation).__module__).rpartition(".")[2]


def _weight_key(strategy: object, aggregation: str) -> str:
    if aggregation == "aggregate_fit" or _is_legacy(strategy):
        return _LEGACY_WEIGHT
    inner = getattr(strategy, "strategy", strategy)
    return str(getattr(inner, "weighted_by_key", "num-examples"))


def _is_legacy(strategy: object) -> bool:
    return hasattr(strategy, "aggregate_fit")


def _shapes(sent: RecordDict) -> dict[str, Shape] | None:
    """What was sent, where it is one record of arrays whose elements are known."""
    records = list(sent.array_records.values())
    if len(records) != 1 or not records[0]:
        return None
    if any(array.stype != "numpy.ndarray" for array in records[0].values()):
        return None
    return _record_shapes(records[0])


def _record_shapes(record: ArrayRecord) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for name, array in record.items():
        if isinstance(array, WireArray) and array.elements is not None:
            shapes[name] = array.elements.shape
        elif array.dtype:
            shapes[name] = tuple(array.shape)
        else:
            # Flower's older API leaves type and shape to the bytes.
            shapes[name] = array.numpy().shape
    return shapes


def _not_finite(records: RecordDict) -> str | None:
    """The name of the first array that holds NaN or infinity."""
    for record in records.array_records.values():
        for name, array in record.items():
            elements: Any = array.elements if isinstance(array, WireArray) else None
            if elements is None or elements.dtype.kind != "f":
                continue
            if not np.isfinite(elements).all():
                return name
    return None

"""Records behave as Flower's own, whatever is done to them."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app.message.typeddict import TypedDict

from fedkube.app import typed_dicts

# As they are before any test runs: another may have had this process do without casts.
FLOWERS = {name: getattr(TypedDict, name) for name in ("__setitem__", "__getitem__")}


@pytest.fixture
def ours(monkeypatch):
    """Has Flower's own as it is until it is called, and what was there again after the test."""
    for name, method in FLOWERS.items():
        assert method.__module__ == TypedDict.__module__
        monkeypatch.setattr(TypedDict, name, method)
    return typed_dicts.without_casts


def told(action) -> str:
    """What an action gives, or the error that it raises."""
    try:
        return repr(action())
    except Exception as error:  # noqa: BLE001 - whatever Flower raises
        return f"{type(error).__name__}: {error}"


def put(record, key, value):
    record[key] = value
    return record[key], list(record), len(record)


def synced(key, value):
    """A view of a record by kind, through which it is changed."""
    records = RecordDict({"m": MetricRecord({"a": 1})})
    records.metric_records[key] = value
    return list(records), [list(each) for each in records.values()]


ACTIONS = [
    *(
        lambda kind=kind, key=key, value=value: put(kind(), key, value)
        for kind in (MetricRecord, ConfigRecord, RecordDict, ArrayRecord)
        for key in ("k", 3, None)
        for value in (1, 2.5, True, "text", b"bytes", [1, 2], [1, "2"], [], {}, None)
    ),
    lambda: put(RecordDict(), "r", MetricRecord({"a": 1})),
    lambda: put(ArrayRecord(), "a", Array(np.arange(3.0))),
    lambda: MetricRecord({"a": 1})["b"],
    lambda: MetricRecord({"a": 1}).get("b", 7),
    lambda: "b" in MetricRecord({"a": 1}),
    lambda: MetricRecord({"a": 1}) == MetricRecord({"a": 1}),
    lambda: RecordDict({"m": MetricRecord({"a": 1})}).metric_records["m"]["a"],
    lambda: synced("n", MetricRecord({"b": 2})),
    lambda: synced("n", ConfigRecord({"b": 2})),
    lambda: synced(4, MetricRecord({"b": 2})),
]


def test_items_are_put_in_and_taken_out_as_by_flower(ours):
    before = [told(action) for action in ACTIONS]
    ours()
    assert [told(action) for action in ACTIONS] == before
    assert sum("TypeError" in each for each in before) > 40
    assert TypedDict.__setitem__ is typed_dicts._put

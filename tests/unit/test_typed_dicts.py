"""Records behave as Flower's own, whatever is done to them."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import weakref

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app.message.typeddict import TypedDict

from fedkube.app import typed_dicts

# As they are before any test runs: another may have had this process quicken them.
FLOWERS = [
    *((TypedDict, name, vars(TypedDict)[name]) for name in typed_dicts._METHODS),
    *((RecordDict, name, vars(RecordDict)[name]) for name in ("__setitem__", *typed_dicts._KINDS)),
]


@pytest.fixture
def ours(monkeypatch):
    """Has Flower's own as it is until it is called, and what was there again after the test."""
    for kind, name, method in FLOWERS:
        made_by = method.fget if isinstance(method, property) else method
        assert made_by.__module__ == kind.__module__
        monkeypatch.setattr(kind, name, method)
    return typed_dicts.quicken


class FoldedText(str):
    """A key that is a text, and more."""

    __slots__ = ()


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


def mixed():
    return RecordDict(
        {
            "m": MetricRecord({"a": 1, "b": [2.5]}),
            "c": ConfigRecord({"k": "text", "f": True}),
            "a": ArrayRecord({"w": Array(np.arange(2.0))}),
            "n": MetricRecord(),
        }
    )


def seen(record):
    """All that can be asked of one."""
    return (
        [list(each) for each in (record, record.keys(), record.items(), record.values())],
        (len(record), bool(record), "m" in record, 3 in record, record.get("m"), record.get("x")),
        (record == mixed(), record == dict(record), record != {}, record.copy() == record),
    )


def dropped(kind, key):
    """Through a view."""
    records = mixed()
    del getattr(records, f"{kind}_records")[key]
    return list(records)


def overwritten(caplog, value):
    caplog.clear()
    records = mixed()
    records["m"] = value
    return list(records), records["m"], [each.getMessage() for each in caplog.records]


def copied(copy):
    records = copy(mixed())
    records["x"] = MetricRecord({"a": 1})
    return records, records.metric_records


ACTIONS = [
    lambda: seen(mixed()),
    *(
        lambda kind=kind: seen(getattr(mixed(), f"{kind}_records"))
        for kind in ("array", "metric", "config", "parameters", "metrics", "configs")
    ),
    *(
        lambda kind=kind, key=key: dropped(kind, key)
        for kind in ("array", "metric", "config")
        for key in ("m", "a", "x", [])
    ),
    *(lambda key=key: mixed()[key] for key in ("x", 3, [])),
    *(lambda key=key: put(mixed(), key, MetricRecord()) for key in ([], 3, "m", "c")),
    lambda: put(MetricRecord(), "k", np.float64(2.5)),
    lambda: put(ConfigRecord(), "k", np.int64(2)),
    lambda: put(ArrayRecord(), FoldedText("k"), Array(np.arange(3.0))),
    lambda: copied(copy.deepcopy),
    lambda: copied(lambda records: pickle.loads(pickle.dumps(records))),
    lambda: mixed().metric_records.copy(),
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


def test_another_kind_in_a_records_place_is_warned_of_as_by_flower(ours, caplog):
    logger = logging.getLogger("flwr")
    logger.addHandler(caplog.handler)
    try:
        values = (MetricRecord({"z": 1}), ConfigRecord(), None)
        before = [told(lambda each=each: overwritten(caplog, each)) for each in values]
        ours()
        assert [told(lambda each=each: overwritten(caplog, each)) for each in values] == before
        assert "was overwritten" in before[1]
    finally:
        logger.removeHandler(caplog.handler)


def test_a_view_is_gone_when_nobody_has_it(ours):
    """And with it the records and their arrays, without a garbage collection."""
    ours()
    gc.disable()
    try:
        records = mixed()
        views = [weakref.ref(getattr(records, name)) for name in typed_dicts._KINDS]
        assert [each() for each in views] == [None] * 3
    finally:
        gc.enable()


def test_a_view_knows_its_records_and_what_it_may_hold(ours):
    ours()
    records = mixed()
    view = records.metric_records
    assert isinstance(view, TypedDict)
    assert view.recorddict is records
    assert view.allowed_type is MetricRecord

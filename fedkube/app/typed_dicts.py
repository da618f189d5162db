"""Flower's records without what they spend on annotations, and on checking what is plainly right.

Its ``TypedDict`` calls ``typing.cast`` with a type that is made anew whenever anything is done to a
record: a cast does nothing, and to make the type takes longer than all the rest. What is put in is
checked against a union of types that is made anew, too; and to look at the records of one kind puts
each of them back into where it is, by a view that refers to itself, so that it has the records'
arrays stay until a garbage collection. A run with a thousand clients puts some ten thousand items
into records each round, and looks at some thousands of them by kind.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app.message import arrayrecord, configrecord, metricrecord, recorddict
from flwr.app.message.recorddict import _SyncedDict
from flwr.app.message.typeddict import TypedDict

# By the function that checks a record's values: types of which every value is let in. The keys of
# these records may be any text.
_FIT: dict[Callable[..., None], frozenset[type]] = {
    arrayrecord._check_value: frozenset({Array}),
    configrecord._check_value: frozenset({bool, int, float, str, bytes}),
    metricrecord._check_value: frozenset({int, float}),
    recorddict._check_value: frozenset({ArrayRecord, ConfigRecord, MetricRecord}),
}
_NONE: frozenset[type] = frozenset()

_put_again = RecordDict.__setitem__


def quicken() -> None:
    """Have records do as before in less time. Once per process."""
    for name, method in _METHODS.items():
        setattr(TypedDict, name, method)
    RecordDict.__setitem__ = _put_record  # type: ignore[method-assign]
    for name, kind in _KINDS.items():
        setattr(RecordDict, name, property(_of(kind)))


def _put(self: TypedDict[Any, Any], key: Any, value: Any) -> None:
    fields = self.__dict__
    check = fields["_check_value_fn"]
    if type(key) is not str or type(value) not in _FIT.get(check, _NONE):
        fields["_check_key_fn"](key)
        check(value)
    fields["_data"][key] = value


def _put_record(self: RecordDict, key: Any, value: Any) -> None:
    # Flower warns where another kind of record was there.
    put = _put_again if key in self.__dict__["_data"] else _put
    put(self, key, value)


def _take(self: TypedDict[Any, Any], key: Any) -> Any:
    return self.__dict__["_data"][key]


def _has(self: TypedDict[Any, Any], key: object) -> bool:
    return key in self.__dict__["_data"]


def _iterate(self: TypedDict[Any, Any]) -> Iterator[Any]:
    return iter(self.__dict__["_data"])


def _count(self: TypedDict[Any, Any]) -> int:
    return len(self.__dict__["_data"])


def _keys(self: TypedDict[Any, Any]) -> KeysView[Any]:
    keys: KeysView[Any] = self.__dict__["_data"].keys()
    return keys


def _values(self: TypedDict[Any, Any]) -> ValuesView[Any]:
    values: ValuesView[Any] = self.__dict__["_data"].values()
    return values


def _items(self: TypedDict[Any, Any]) -> ItemsView[Any, Any]:
    items: ItemsView[Any, Any] = self.__dict__["_data"].items()
    return items


def _of(kind: type) -> Callable[[RecordDict], TypedDict[str, Any]]:
    """A view of the records of one kind, through which they can be changed."""

    def check(value: Any) -> None:
        # As the view's own method, which would make it refer to itself.
        if not isinstance(value, kind):
            raise TypeError(
                f"Expected `{kind.__name__}`, but received `{type(value).__name__}` for the value."
            )

    def records(self: RecordDict) -> TypedDict[str, Any]:
        view: _SyncedDict[Any] = _SyncedDict.__new__(_SyncedDict)
        TypedDict.__init__(view, recorddict._check_key, check)
        view.recorddict = self
        view.allowed_type = kind
        its = self.__dict__["_data"].items()
        view.__dict__["_data"] = {key: each for key, each in its if isinstance(each, kind)}
        return view

    return records


_METHODS: dict[str, Callable[..., Any]] = {
    "__setitem__": _put,
    "__getitem__": _take,
    "__contains__": _has,
    "__iter__": _iterate,
    "__len__": _count,
    "keys": _keys,
    "values": _values,
    "items": _items,
}
_KINDS: dict[str, type] = {
    "array_records": ArrayRecord,
    "config_records": ConfigRecord,
    "metric_records": MetricRecord,
}

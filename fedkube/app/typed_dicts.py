"""Flower's records without what they spend on type annotations each time they are used.

Its ``TypedDict`` calls ``typing.cast`` with a type that is made anew for every item that is put in
or taken out: a cast does nothing, and to make the type takes longer than all the rest. A run with a
thousand clients puts some ten thousand items into records each round.
"""

from __future__ import annotations

from typing import Any

from flwr.app.message.typeddict import TypedDict


def without_casts() -> None:
    """Have items put in and taken out as before, and nothing else. Once per process."""
    TypedDict.__setitem__ = _put  # type: ignore[method-assign]
    TypedDict.__getitem__ = _take  # type: ignore[method-assign]


def _put(self: TypedDict[Any, Any], key: Any, value: Any) -> None:
    fields = self.__dict__
    fields["_check_key_fn"](key)
    fields["_check_value_fn"](value)
    fields["_data"][key] = value


def _take(self: TypedDict[Any, Any], key: Any) -> Any:
    return self.__dict__["_data"][key]

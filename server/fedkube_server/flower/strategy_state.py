"""A strategy's state as bytes: what its rounds have changed of it, and nothing else.

The bytes are a pickle (protocol 5, arrays apart) of plain values only: numbers, texts, containers,
NumPy's arrays and generators, Flower's records. Whatever else a pickle may name is refused on both
ways, so that bytes which somebody has changed run no code.
"""

from __future__ import annotations

import functools
import io
import logging
import pickle
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from blake3 import blake3
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Strategy

from fedkube.app.arrays import fields_of, from_fields

# By attribute ("strategy.m_t" of one that wraps another), a digest; None where it is not plain.
Look = Mapping[str, bytes | None]

# What a pickle may name, apart from what makes Flower's records.
_NAMES = {
    *("builtins.set", "builtins.frozenset", "builtins.bytearray", "builtins.complex"),
    *("builtins.slice", "builtins.range", "builtins.int", "builtins.float", "builtins.list"),
    *("builtins.dict", "builtins.str", "builtins.bool", "builtins.tuple"),
    *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
    *("collections.deque", "random.Random"),
    *("datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta"),
    *("pathlib.PosixPath", "pathlib.PurePosixPath"),
    *("numpy.ndarray", "numpy.dtype"),
    *("numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"),
    "numpy._core.numeric._frombuffer",
    *("numpy.random._pickle.__generator_ctor", "numpy.random._pickle.__randomstate_ctor"),
    "numpy.random._pickle.__bit_generator_ctor",
    *("numpy.random._generator.Generator", "numpy.random.mtrand.RandomState"),
    *("numpy.random._pcg64.PCG64", "numpy.random._pcg64.PCG64DXSM"),
    *("numpy.random._mt19937.MT19937", "numpy.random._philox.Philox"),
    "numpy.random._sfc64.SFC64",
    "numpy.random.bit_generator.SeedSequence",
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
}

# What is as the app has made it, whatever the rounds have done.
_STATELESS = (
    *(FunctionType, BuiltinFunctionType, MethodType, functools.partial, type, ModuleType),
    *(logging.Logger, logging.LoggerAdapter),
)


class NotPlain(Exception):
    """A value that cannot be kept; its text names what is in the way."""


# ----------------------------------------------------------------- of a strategy


def look(strategy: Strategy) -> Look:
    """What the attributes are now, so that it can be told later which have changed."""
    seen: dict[str, bytes | None] = {}
    for path, value in _attributes(strategy):
        try:
            seen[path] = _digest(value)
        except NotPlain:
            seen[path] = None
    return seen


def changes(strategy: Strategy, since: Look) -> dict[str, Any]:
    """The attributes that are not as they were; NotPlain where one could be, and is not plain."""
    changed: dict[str, Any] = {}
    for path, value in _attributes(strategy):
        try:
            if _digest(value) != since.get(path):
                changed[path] = value
        except NotPlain as error:
            raise NotPlain(f"its attribute {path} holds {error}") from None
    return changed


def change(strategy: Strategy, changed: Mapping[str, Any]) -> None:
    """Give a strategy these attributes; KeyError where it wraps no such strategy."""
    for path, value in changed.items():
        *owners, name = path.split(".")
        owner: Any = strategy
        for each in owners:
            owner = vars(owner)[each]
        vars(owner)[name] = value


def _attributes(strategy: Strategy, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of those that rounds may change."""
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy):
            yield from _attributes(value, f"{prefix}{name}.")
        elif not isinstance(value, _STATELESS):
            yield f"{prefix}{name}", value


def _digest(value: object) -> bytes:
    pickled, buffers = dump(value)
    digest = blake3(pickled)
    for each in buffers:
        digest.update(each)
    return digest.digest()


# ----------------------------------------------------------------- of the process


def chance() -> dict[str, Any]:
    """The state of the global generators of Python, NumPy and, if it is loaded, PyTorch."""
    torch = sys.modules.get("torch")
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": None if torch is None else torch.get_rng_state().numpy(),
    }


def set_chance(state: Mapping[str, Any]) -> None:
    """Have them go on from this state."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and state["torch"] is not None:
        torch.set_rng_state(torch.from_numpy(state["torch"]))


# ----------------------------------------------------------------- as bytes


def dump(value: object) -> tuple[bytes, list[memoryview]]:
    """A value as a pickle and its buffers; NotPlain where there is something else in it."""
    buffers: list[pickle.PickleBuffer] = []
    into = io.BytesIO()
    try:
        _Pickler(into, protocol=5, buffer_callback=buffers.append).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise NotPlain(str(error)) from None
    return into.getvalue(), [each.raw() for each in buffers]


def load(pickled: bytes, buffers: Sequence[memoryview]) -> Any:
    """The value again, its arrays writable; NotPlain where it names what it must not."""
    copies = [bytearray(each) for each in buffers]
    try:
        return _Unpickler(io.BytesIO(pickled), buffers=copies).load()
    except (pickle.UnpicklingError, EOFError, IndexError, ValueError, TypeError) as error:
        raise NotPlain(str(error)) from None


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Array):
            return from_fields, fields_of(value)
        if type(value) in (MetricRecord, ConfigRecord):
            return type(value), (dict(value),)
        if type(value) is ArrayRecord:
            return array_record, (dict(value),)
        named = value if hasattr(value, "__qualname__") else type(value)
        name = _named(named)
        # NumPy gives each element type a class of its own.
        if name in _NAMES or name in _MADE or isinstance(value, np.generic | np.dtype):
            return NotImplemented
        raise NotPlain(f"a {name}")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in _NAMES:
            return super().find_class(module, name)
        if (made := _MADE.get(f"{module}.{name}")) is not None:
            return made
        raise NotPlain(f"a {module}.{name}")


def array_record(items: dict[str, Array]) -> ArrayRecord:
    """The record of these arrays, which are taken over; journals have this function's name."""
    record = ArrayRecord()
    record.update(items)
    return record


def _named(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


_MADE: dict[str, Any] = {
    _named(each): each for each in (from_fields, array_record, MetricRecord, ConfigRecord)
}

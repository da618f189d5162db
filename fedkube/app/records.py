"""Flower's records to what travels, and back: a ``RecordDict`` is a ``Content`` and its blobs.

Order, names and the types of values survive: an int comes back as an int, an empty list as one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType

from fedkube.app.arrays import elements_of, from_bytes
from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.contents import get_value
from fedkube.wire.limits import INLINE_BYTES, MAX_BLOBS
from fedkube.wire.tensors import NAMES

_INT64 = range(-(1 << 63), 1 << 63)
_UINT64 = range(1 << 63, 1 << 64)

# Given a record's name, one of its arrays as it is described so far, and the elements: other bytes
# that stand for them, having said in the description how, or None.
Pack = Callable[[str, pb.Array, npt.NDArray[np.generic]], memoryview | None]


@dataclass(slots=True)
class Encoder:
    """Collects the blobs of one or more record dicts.

    Messages of one round share their arrays, so an ``Array`` object that was seen before gives the
    same blob again.

    ``received``: what whoever is told has sent. An array that is still a view of one of these gives
    that very object, without a look at its bytes.
    """

    blobs: list[memoryview] = field(default_factory=list)
    received: Sequence[memoryview] = ()
    _seen: dict[int, tuple[Array, int]] = field(default_factory=dict)
    _places: dict[tuple[int, int], memoryview] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = {_place(np.frombuffer(each, "u1")): each for each in self.received if each}

    def encode(
        self, records: RecordDict, pack: Pack | None = None, into: pb.Content | None = None
    ) -> pb.Content:
        """The records without their arrays' bytes, which are added to ``blobs``.

        ``pack``: may put others in the place of an array's bytes. ``into``: an empty content, which
        is filled; what is in it after an error does not count.
        """
        content = pb.Content() if into is None else into
        content.SetInParent()
        for name, record in records.items():
            entry = content.records.add(name=name)
            if isinstance(record, ArrayRecord):
                entry.arrays.SetInParent()
                for key, array in record.items():
                    self._array(name, entry.arrays.items.add(name=key), array, pack)
            else:
                values = entry.metrics if isinstance(record, MetricRecord) else entry.configs
                values.SetInParent()
                for key, value in record.items():
                    self._value(values.items.add(key=key), value)
        return content

    def _array(self, record: str, entry: pb.Array, array: Array, pack: Pack | None) -> None:
        elements = elements_of(array, entry.name)
        entry.stype = array.stype
        if elements is None:
            entry.opaque = True
            entry.dtype = array.dtype
            entry.shape.extend(array.shape)
        else:
            entry.dtype = NAMES[elements.dtype]
            entry.shape.extend(elements.shape)
            if (array.dtype, tuple(array.shape)) != (entry.dtype, elements.shape):
                entry.declared_dtype = array.dtype
                entry.declared_shape.extend(array.shape)
        if pack is not None and elements is not None:
            data = pack(record, entry, elements)
            if data is not None:
                entry.blob = self._add(data)
                return
        seen = self._seen.get(id(array))
        if seen is None:
            data = memoryview(array.data) if elements is None else self._bytes(elements)
            # The array is kept beside its number: an id may be given again once it is gone.
            seen = self._seen[id(array)] = (array, self._add(data))
        entry.blob = seen[1]

    def _bytes(self, elements: npt.NDArray[np.generic]) -> memoryview:
        received = self._places.get(_place(elements)) if self._places else None
        return _bytes_of(elements) if received is None else received

    def _value(self, entry: pb.Value, value: Any) -> None:
        if isinstance(value, bytes) and len(value) > INLINE_BYTES:
            entry.blob = self._add(memoryview(value))
            return
        try:
            set_value(entry, value)
        except ValueError as error:
            raise Rejected(f"value {entry.key!r}: {error}") from None

    def _add(self, data: memoryview) -> int:
        if len(self.blobs) >= MAX_BLOBS:
            raise Rejected(f"a message holds at most {MAX_BLOBS} arrays")
        self.blobs.append(data)
        return len(self.blobs) - 1


def decode(
    content: pb.Content, blobs: Sequence[memoryview], folded: ArrayRecord | None = None
) -> RecordDict:
    """The records again; Rejected where the content does not fit its blobs.

    ``folded``: what stands for the arrays, where they have gone into a sum.
    """
    records = RecordDict()
    copies = _Copies(blobs)
    for entry in content.records:
        kind = entry.WhichOneof("kind")
        record: ArrayRecord | MetricRecord | ConfigRecord
        if kind == "arrays":
            record = _arrays(entry.arrays, copies) if folded is None else folded
        elif kind == "metrics":
            record = MetricRecord()
            _values(entry.metrics, copies, record)
        elif kind == "configs":
            record = ConfigRecord()
            _values(entry.configs, copies, record)
        else:
            raise Rejected(f"record {entry.name!r} is of no known kind")
        _unique(entry.name, records)
        records[entry.name] = record
    return records


def _unique(name: str, names: Container[str]) -> None:
    if name in names:
        raise Rejected(f"the name {name!r} comes twice")


def set_value(entry: pb.Value, value: Any) -> None:
    """Put a metric's or config's value into its entry; ValueError where it cannot travel."""
    if isinstance(value, list):
        _set_list(entry, value)
    elif isinstance(value, bool):
        entry.boolean = value
    elif isinstance(value, int):
        if value in _INT64:
            entry.integer = value
        elif value in _UINT64:
            entry.natural = value
        else:
            raise ValueError(f"{value} does not fit into 64 bits")
    elif isinstance(value, float):
        entry.real = value
    elif isinstance(value, str):
        entry.text = value
    elif isinstance(value, bytes):
        entry.data = value
    else:
        raise ValueError(f"a {type(value).__name__} cannot travel")


def _set_list(entry: pb.Value, value: list[Any]) -> None:
    kind = type(value[0]) if value else float
    if kind is bool:
        entry.booleans.items.extend(value)
        entry.booleans.SetInParent()
    elif kind is int:
        if any(item not in _INT64 for item in value):
            raise ValueError("a list's integers must be of 64 bits with a sign")
        entry.integers.items.extend(value)
    elif kind is float or issubclass(kind, float):
        entry.reals.items.extend(value)
        entry.reals.SetInParent()
    elif kind is str:
        entry.texts.items.extend(value)
    elif kind is bytes:
        entry.datas.items.extend(value)
    else:
        raise ValueError(f"a list of {kind.__name__} cannot travel")


def from_values(values: pb.Values) -> dict[str, Any]:
    """A flat config, such as the run config."""
    return {entry.key: get_value(entry) for entry in values.items}


def to_values(config: dict[str, Any]) -> pb.Values:
    """A flat config, such as the run config, as what travels."""
    values = pb.Values()
    for key, value in config.items():
        set_value(values.items.add(key=key), value)
    return values


def _arrays(arrays: pb.Arrays, blobs: _Copies) -> ArrayRecord:
    record = ArrayRecord()
    for item in arrays.items:
        _unique(item.name, record)
        record[item.name] = _array(item, blobs)
    return record


def _values(values: pb.Values, blobs: _Copies, record: MetricRecord | ConfigRecord) -> None:
    for entry in values.items:
        _unique(entry.key, record)
        large = entry.WhichOneof("kind") == "blob"
        value: Any = blobs.copy(entry.blob) if large else get_value(entry)
        try:
            record[entry.key] = value
        except TypeError as error:
            raise Rejected(f"value {entry.key!r}: {error}") from None


def _array(item: pb.Array, blobs: _Copies) -> Array:
    data = blobs[item.blob]
    shape = tuple(item.shape)
    if item.opaque:
        if item.stype == SType.NUMPY:
            # Flower would parse such bytes as a file of NumPy's, or as an archive of them.
            raise Rejected(f"array {item.name!r} is NumPy's, and hides its elements")
        return Array(dtype=item.dtype, shape=shape, stype=item.stype, data=blobs.copy(item.blob))
    if not item.HasField("declared_dtype"):
        return from_bytes(data, item.dtype, shape, item.stype)
    declared = tuple(item.declared_shape)
    return from_bytes(data, item.dtype, shape, item.stype, item.declared_dtype, declared)


class _Copies:
    """Blobs by number; one that is copied is copied once, however often it is referred to."""

    def __init__(self, blobs: Sequence[memoryview]) -> None:
        self._blobs = blobs
        self._copies: dict[int, bytes] = {}

    def __getitem__(self, index: int) -> memoryview:
        if index >= len(self._blobs):
            raise Rejected(f"there is no blob {index}: {len(self._blobs)} came")
        return self._blobs[index]

    def copy(self, index: int) -> bytes:
        """The blob as bytes of its own."""
        if index not in self._copies:
            self._copies[index] = bytes(self[index])
        return self._copies[index]


def _place(elements: npt.NDArray[np.generic]) -> tuple[int, int]:
    """Where a contiguous array is in this process's memory: address and length."""
    return elements.__array_interface__["data"][0], elements.nbytes


def _bytes_of(elements: Any) -> memoryview:
    # A zero-sized or zero-dimensional array has no byte view that memoryview.cast would make.
    return memoryview(elements.reshape(-1).view("u1"))

"""Compresses the arrays of replies, and keeps what rounding loses where the client is always ours.

Runs in the executor, which has both the array that was sent and what the app has made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedkube.core import ids
from fedkube.core.quantisation import DTYPES, Floats, Noise, pack
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import packed, tensors

# An array is known by its record's name and its own.
Name = tuple[str, str]
Errors = dict[Name, Floats]


@dataclass(slots=True)
class _Kept:
    """The errors of a client's newest call, and those before it, should that call not count.

    ``seed``: the call's, which is the same when the call is made again, by another server even.
    """

    call: int
    seed: int
    errors: Errors
    before: Errors


class Compressor:
    """Of one executor. With its process a client's errors are gone: one update's rounding."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}  # by partition

    def uncounted(self, calls: Iterable[int]) -> None:
        """The updates of these calls did not count: what they carried is to be carried again."""
        gone = set(calls)
        for kept in self._kept.values():
            if kept.call in gone:
                kept.errors = kept.before

    def packing(self, task: pb.Task, call: pb.Call, blobs: Sequence[memoryview]) -> Packing | None:
        """For the reply to a call; None where it is to be sent as it is."""
        if not task.compression:
            return None
        carried: Errors = {}
        kept = self._kept.get(call.partition)
        if kept is not None:
            # A call that is made again was lost on its way.
            carried = kept.errors = kept.before if kept.seed == call.seed else kept.errors
            kept.before = {}
        return Packing(task, call, blobs, carried)

    def done(self, packing: Packing) -> None:
        """The reply is encoded whole: keep the errors."""
        if packing.task.bound:
            before = packing.carried
            kept = _Kept(packing.call.id, packing.call.seed, {**before, **packing.errors}, before)
            self._kept[packing.call.partition] = kept


@dataclass(frozen=True, slots=True)
class _Sent:
    """One of the message's arrays, and its place among them all."""

    place: int
    record: str
    item: pb.Array


@dataclass(slots=True)
class Packing:
    """Packs one reply's arrays; an ``Encoder`` calls it for each."""

    task: pb.Task
    call: pb.Call
    blobs: Sequence[memoryview]
    carried: Errors
    errors: Errors = field(default_factory=dict)
    _sent: dict[str, list[_Sent]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = 0
        for record in self.task.content.records:
            for item in record.arrays.items:
                if not item.opaque:
                    self._sent.setdefault(item.name, []).append(_Sent(place, record.name, item))
                place += 1

    def __call__(
        self, record: str, entry: pb.Array, elements: npt.NDArray[np.generic]
    ) -> memoryview | None:
        """The bytes to send, or None where the array is better sent as it is."""
        if entry.dtype not in DTYPES or not elements.size:
            return None
        sent = self._base(record, entry)
        if sent is None:
            return None
        values: npt.NDArray[Any] = elements.reshape(-1)
        base = np.frombuffer(self.blobs[sent.item.blob], tensors.DTYPES[entry.dtype])
        if _same(values, base):
            return None  # the server has it: its digest is enough
        name = (record, entry.name)
        made = pack(
            values,
            base,
            packed.KINDS[self.task.compression],
            None if self.task.bound else _noise(self.call.seed, name),
            self.carried.get(name),
        )
        if made is None:
            return None
        if made.error is not None:
            self.errors[name] = made.error
        entry.compression = self.task.compression
        if made.relative:
            entry.base = sent.place
        return made.data.data

    def _base(self, record: str, entry: pb.Array) -> _Sent | None:
        """The array that the message has under this name: best in the record of this name."""
        found = None
        for sent in self._sent.get(entry.name, ()):
            if (sent.item.dtype, sent.item.shape) == (entry.dtype, entry.shape):
                if sent.record == record:
                    return sent
                found = found or sent
        return found


def _same(values: npt.NDArray[Any], base: npt.NDArray[Any]) -> bool:
    """Whether they are the same, bit for bit."""
    ours, theirs = values.view(np.uint8), base.view(np.uint8)
    # Where something has changed, it mostly has at the very beginning.
    return bool(np.array_equal(ours[:4096], theirs[:4096]) and np.array_equal(ours, theirs))


def _noise(seed: int, name: Name) -> Noise:
    """Random 16-bit integers that depend on the client's call and the array, and on nothing else.

    They are cut from the generator's own 64 bits: NumPy keeps that stream the same for ever, and
    not what its distributions make of it.
    """
    generator = np.random.SFC64(ids.derive("rounding", seed, *name))

    def draw(count: int) -> npt.NDArray[np.uint16]:
        drawn = np.asarray(generator.random_raw(-(-count // 4)), np.uint64)
        return drawn.astype("<u8", copy=False).view("<u2")[:count]

    return draw

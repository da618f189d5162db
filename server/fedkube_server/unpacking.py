"""Compressed arrays of replies, as everything behind sees them: as those that they stand for.

Their bytes stay compressed where they landed. What sums them decompresses a piece at a time; where
a strategy needs the arrays themselves, they are written out once, to room that is not the heap's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedkube.core.partial_sums import BLOCK
from fedkube.core.quantisation import Compression, restore
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import packed, tensors
from fedkube.wire.limits import CHUNK_BYTES
from fedkube_server.calls import Outgoing
from fedkube_server.landing import Block, Landed, Room, Spool, peaks_of


@dataclass(frozen=True, slots=True)
class Unpacking:
    """What a compressed array's description tells.

    ``blob``: place of its bytes among the upload's blobs. ``base``: the bytes that it is the
    difference to, or None.
    """

    blob: int
    kind: Compression
    dtype: np.dtype[np.generic]
    size: int
    base: memoryview | None

    @property
    def nbytes(self) -> int:
        """Of the array that it stands for."""
        return self.size * self.dtype.itemsize


class Unpacked(Landed):
    """An array whose bytes have landed compressed. Rejected, by whatever reads it, if they lie."""

    __slots__ = ("_from", "_packed", "_spool", "_whole")

    def __init__(self, packed: Landed, how: Unpacking, spool: Spool) -> None:
        super().__init__(how.nbytes)
        self._from = how
        self._packed = packed
        self._spool = spool
        self._whole: Room | None = None

    def magnitudes(self, dtype: np.dtype[np.generic]) -> list[float]:
        """The largest magnitude of each block of elements."""
        if not self.peaks:
            self.peaks = [peak for _, values in self._parts() for peak in peaks_of(values)]
        return self.peaks

    def blocks(self, dtype: np.dtype[np.generic]) -> Iterator[Block]:
        """Elements from which on, some blocks of them, and each block's largest magnitude."""
        known = self.magnitudes(dtype)
        for start, values in self._parts():
            first = start // BLOCK
            yield start, values, known[first : first + -(-len(values) // BLOCK)]

    def view(self) -> memoryview:
        """The array's bytes, read-only."""
        if self._whole is None:
            self._whole = self._spool.room([self])
            for start, values in self._parts():
                self._whole.write(start * self._from.dtype.itemsize, values.view(np.uint8).data)
        return super().view()

    def close(self) -> None:
        """The room that it was written to may be used for others, unless it is looked at."""
        if self._whole is not None:
            self._whole.close()
            self._whole = None

    def _parts(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        how = self._from
        base = None if how.base is None else np.frombuffer(how.base, how.dtype)
        step = CHUNK_BYTES // how.dtype.itemsize
        for start in range(0, how.size, step):
            part = slice(start, min(start + step, how.size))
            of_base = None if base is None else base[part]
            yield (
                start,
                restore(how.kind, self._packed.read, how.size, part, of_base, how.dtype),
            )


def unpackings(message: Outgoing, outcome: pb.Outcome, first: int) -> list[Unpacking]:
    """How to unpack an outcome's compressed arrays, which become the blobs from ``first`` on."""
    items = packed.packed(outcome.content)
    sent = packed.arrays(message.frame.content) if items else []
    unpackings = []
    for number, item in enumerate(items, first):
        base = packed.base_of(item, sent)
        unpackings.append(
            Unpacking(
                item.blob,
                packed.kind_of(item),
                tensors.DTYPES[item.dtype],
                math.prod(item.shape),
                None if base is None else message.blobs[base.blob].data,
            )
        )
        packed.replace(item, number)
    return unpackings


def unpack(outcome: pb.Outcome, landed: Sequence[Landed]) -> None:
    """Write compressed arrays out; Rejected where their bytes lie, whether or not anyone looks."""
    for item in packed.arrays(outcome.content):
        if item.blob < len(landed) and isinstance(landed[item.blob], Unpacked):
            landed[item.blob].view()

"""Updates of several clients, kept by their worker as one sum until the server asks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fedkube.core.admission import Expected
from fedkube.core.partial_sums import BLOCK, Flat, TensorSum, largest
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, packed, tensors, updates

# Bytes that are compared before all are.
_HEAD = 64


@dataclass(frozen=True, slots=True)
class _Update:
    """``unchanged``: of each item, whether it is the one that was sent.

    ``peaks``: of each item, the largest magnitudes of its blocks.
    """

    items: Sequence[pb.Array]
    views: Sequence[memoryview]
    unchanged: Sequence[bool]
    peaks: Sequence[list[float]]
    weight: float


@dataclass(slots=True)
class _Tensor:
    """``sent``: what it was, with its element type and digest; ``peaks``: of that, when known."""

    dtype: str
    sent: memoryview
    digest: bytes
    peaks: list[float] | None = None
    sums: dict[str, TensorSum] = field(default_factory=dict)
    unchanged: list[int] = field(default_factory=list)

    def is_unchanged(self, dtype: str, blob: pb.Blob, view: memoryview) -> bool:
        """Whether an update's is the one that was sent."""
        if dtype != self.dtype:
            return False
        if blob.digest:
            return blob.digest == self.digest
        # Where something has changed, it mostly has at the very beginning.
        return view[:_HEAD] == self.sent[:_HEAD] and bool(
            np.array_equal(np.frombuffer(view, np.uint8), np.frombuffer(self.sent, np.uint8))
        )

    def sent_peaks(self) -> list[float]:
        """The largest magnitudes of the blocks of what was sent."""
        if self.peaks is None:
            self.peaks = _magnitudes(np.frombuffer(self.sent, tensors.DTYPES[self.dtype]))
        return self.peaks


class HeldSum:
    """The sum of the updates to one message. ``task``: the message, with what is to be summed.

    ``sent``: its blobs.
    """

    def __init__(self, task: pb.Task, sent: Sequence[memoryview]) -> None:
        self.calls: list[int] = []
        self.known = {blob.digest for blob in task.blobs}
        self._task = task
        self._fold = task.fold
        self._blobs = sent
        arrays = updates.arrays(task.content)
        self._shapes = {item.name: tuple(item.shape) for item in arrays}
        self._expected = Expected(self._shapes, task.fold.weight_key)
        self._tensors = {
            item.name: _Tensor(item.dtype, sent[item.blob], task.blobs[item.blob].digest)
            for item in arrays
        }
        self._first: _Update | None = None  # kept as it came: it may stay the only one

    def add(
        self,
        outcome: pb.Outcome,
        blobs: Sequence[pb.Blob],
        views: Sequence[memoryview],
    ) -> str | None:
        """Add an update; why it must not count, or None. Its arrays go out of the outcome."""
        reason = packed.refusal(self._task, outcome, blobs)
        if reason is not None:
            return reason
        if self._task.compression:
            blobs, views = self._unpacked(outcome.content, blobs, views)
        metrics = contents.metrics(outcome.content)
        reason = updates.refusal(self._expected, outcome.content, metrics, blobs)
        if reason is not None:
            return reason
        weight = updates.weight(metrics, self._fold.weight_key)
        items = updates.arrays(outcome.content)
        tensors_of = [self._tensors[item.name] for item in items]
        unchanged = [
            tensor.is_unchanged(item.dtype, blobs[item.blob], views[item.blob])
            for tensor, item in zip(tensors_of, items, strict=True)
        ]
        peaks = [
            tensor.sent_peaks() if same else _magnitudes(_values(item, views))
            for tensor, item, same in zip(tensors_of, items, unchanged, strict=True)
        ]
        for item, magnitudes in zip(items, peaks, strict=True):
            reason = updates.unfit(item.name, magnitudes, weight)
            if reason is not None:
                return reason
        update = _Update(items, views, unchanged, peaks, weight)
        if not self.calls:
            kept = [pb.Array.FromString(item.SerializeToString()) for item in items]
            self._first = _Update(kept, list(views), unchanged, peaks, weight)
        else:
            self._sum_first()
            self._sum(update, len(self.calls))
        updates.hold(outcome)
        self.calls.append(outcome.call)
        return None

    def _unpacked(
        self, content: pb.Content, blobs: Sequence[pb.Blob], views: Sequence[memoryview]
    ) -> tuple[Sequence[pb.Blob], Sequence[memoryview]]:
        """The same with arrays of their own in the place of those that are compressed."""
        items = packed.packed(content)
        if not items:
            return blobs, views
        blobs, views = list(blobs), list(views)
        sent = packed.arrays(self._task.content)
        for item in items:
            base = packed.base_of(item, sent)
            restored = packed.restored(
                item, views[item.blob], None if base is None else self._blobs[base.blob]
            )
            packed.replace(item, len(blobs))
            blobs.append(pb.Blob(nbytes=len(restored)))
            views.append(restored)
        return blobs, views

    def _sum_first(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            self._sum(first, 0)

    def _sum(self, update: _Update, place: int) -> None:
        for item, same, peaks in zip(update.items, update.unchanged, update.peaks, strict=True):
            tensor = self._tensors[item.name]
            if same:
                tensor.unchanged.append(place)
                continue
            values = _values(item, update.views)
            if item.dtype not in tensor.sums:
                size = math.prod(self._shapes[item.name])
                tensor.sums[item.dtype] = TensorSum(values.dtype, size, self._fold.bits)
            tensor.sums[item.dtype].add(0, values, update.weight, peaks)

    def export(self) -> tuple[pb.Sum, list[list[memoryview]]]:
        """The sum as it travels: its blobs lack ids and digests, and are given in pieces."""
        frame = pb.Sum(fold=self._fold.id, calls=self.calls)
        if self._first is not None:
            return frame, self._export_first(frame, self._first)
        pieces: list[list[memoryview]] = []
        for name, tensor in self._tensors.items():
            for dtype in sorted(tensor.sums) or [tensor.dtype]:
                entry = frame.tensors.add(name=name, dtype=dtype)
                if dtype in tensor.sums:
                    pieces.append(updates.describe(entry, tensor.sums[dtype], frame))
                entry.unchanged.extend(tensor.unchanged)
                tensor.unchanged = []  # said once, whatever the number of types
        return frame, pieces

    def _export_first(self, frame: pb.Sum, first: _Update) -> list[list[memoryview]]:
        pieces = []
        for item, same in zip(first.items, first.unchanged, strict=True):
            view = first.views[item.blob]
            if same:
                frame.tensors.add(name=item.name, dtype=item.dtype, unchanged=[0])
                continue
            frame.tensors.add(name=item.name, dtype=item.dtype, raw=True, blob=len(frame.blobs))
            frame.blobs.add(nbytes=len(view))
            pieces.append([view])
        return pieces


def _values(item: pb.Array, views: Sequence[memoryview]) -> Flat:
    return np.frombuffer(views[item.blob], tensors.DTYPES[item.dtype])


def _magnitudes(values: Flat) -> list[float]:
    return [largest(values[start : start + BLOCK]) for start in range(0, len(values), BLOCK)]

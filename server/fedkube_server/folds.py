"""Sums of a phase's updates as they come, for strategies that need no more than the mean."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkube.core.admission import Expected, Shape, refusal
from fedkube.core.errors import Rejected
from fedkube.core.partial_sums import Part, TensorSum, bits_for, mean_dtype
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, tensors, updates
from fedkube_server.blobs import StoredBlob
from fedkube_server.landing import Landed, peaks_of

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Sent:
    """An array as it was sent to a client."""

    dtype: str
    blob: StoredBlob


def sent_arrays(content: pb.Content, blobs: Sequence[StoredBlob]) -> dict[str, Sent]:
    """The arrays of a message, by name."""
    return {item.name: Sent(item.dtype, blobs[item.blob]) for item in updates.arrays(content)}


@dataclass(frozen=True, slots=True)
class Late:
    """An update whose phase was closed without it.

    ``digests``: of the blobs. ``sent``: what the client was sent then.
    """

    outcome: pb.Outcome
    digests: Sequence[bytes]
    landed: Sequence[Landed]
    sent: Mapping[str, Sent]


class Fold:
    """The weighted sum of the updates that counted in one phase.

    An array that a client sends back as it got it adds its weight alone; the weights of all such
    are added up, exactly, and the array counts once with their sum. So an array that nobody has
    changed stays as it is, bit for bit, and need not be sent to anybody again.

    ``shapes``: name to shape of the arrays that were sent, which an update must have as well.
    ``weight_key``: the metric that weighs an update. ``cohort``: how many updates may come.
    """

    def __init__(self, shapes: Mapping[str, Shape], weight_key: str, cohort: int) -> None:
        self.shapes = dict(shapes)
        self.cohort = cohort
        self._expected = Expected(self.shapes, weight_key)
        self._weighed = Expected(None, weight_key)
        self._key = weight_key
        self._bits = bits_for(cohort)
        self._left = 2 ** (62 - self._bits)  # updates that fit without an overflow
        # An app may send other element types than it was sent, and each client others.
        self._sums: dict[str, dict[str, TensorSum]] = {name: {} for name in shapes}
        # Arrays that clients sent back as they had got them: by name, which, and whose: places
        # among the updates.
        self._unchanged: dict[str, dict[tuple[str, bytes], tuple[Sent, list[int]]]] = {
            name: {} for name in shapes
        }
        self._calls: list[int] = []  # whose updates have counted
        self._weights: list[float] = []  # of each
        self._mean: dict[str, Array] | None = None
        self._same: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def spec(self, number: int) -> pb.Fold:
        """What a worker needs to know to sum updates itself."""
        return pb.Fold(id=number, bits=self._bits, weight_key=self._key)

    # ------------------------------------------------------------- what may count

    def refusal(self, outcome: pb.Outcome, blobs: Sequence[pb.Blob]) -> str | None:
        """Why an update must not count, as far as its description tells, or None."""
        metrics = contents.metrics(outcome.content)
        if outcome.held:
            return refusal(self._weighed, [], metrics, None)
        return updates.refusal(self._expected, outcome.content, metrics, blobs)

    @staticmethod
    def dtypes(outcome: pb.Outcome) -> dict[int, np.dtype[np.generic]]:
        """Blob to element type, of the blobs that will be summed."""
        return {item.blob: tensors.DTYPES[item.dtype] for item in updates.arrays(outcome.content)}

    def unfit(self, outcome: pb.Outcome, landed: Sequence[Landed]) -> str | None:
        """Why an update must not count, by its bytes, or None."""
        weight = self.weight(outcome)
        for item in updates.arrays(outcome.content):
            magnitudes = landed[item.blob].magnitudes(tensors.DTYPES[item.dtype])
            reason = updates.unfit(item.name, magnitudes, weight)
            if reason is not None:
                return reason
        return None

    def weight(self, outcome: pb.Outcome) -> float:
        """What the update counts in the mean."""
        return updates.weight(contents.metrics(outcome.content), self._key)

    def check_sum(self, update: pb.Sum) -> None:
        """Rejected unless a worker's sum can be one of what was sent."""
        if {tensor.name for tensor in update.tensors} != set(self.shapes):
            raise Rejected("a sum has other arrays than were sent")
        if len({(each.name, each.dtype) for each in update.tensors}) != len(update.tensors):
            raise Rejected("a sum has an array twice")
        for tensor in update.tensors:
            if any(place >= len(update.calls) for place in tensor.unchanged):
                raise Rejected("a sum counts calls that it does not have")
            if not tensor.raw and not tensor.blocks:
                continue  # nobody has changed it
            if tensor.blob >= len(update.blobs):
                raise Rejected(f"there is no blob {tensor.blob}: {len(update.blobs)} came")
            if tensor.raw and len(update.calls) != 1:
                raise Rejected("a sum of several updates is announced as the update of one")
            if update.blobs[tensor.blob].nbytes != self._sum_bytes(tensor):
                raise Rejected(f"the sum of array {tensor.name!r} has an impossible size")

    def _sum_bytes(self, tensor: pb.SumTensor) -> int:
        nbytes = tensors.nbytes(tensor.dtype, self.shapes[tensor.name])
        if tensor.raw:
            return nbytes
        if len(tensor.blocks) != len(tensor.bins):
            raise Rejected("a sum has another number of bins than of blocks")
        sums = TensorSum(
            tensors.DTYPES[tensor.dtype], math.prod(self.shapes[tensor.name]), self._bits
        )
        return sum(map(sums.part_bytes, tensor.blocks, tensor.bins))

    @staticmethod
    def sum_dtypes(update: pb.Sum) -> dict[int, np.dtype[np.generic]]:
        """Blob to element type, of the blobs that are updates themselves."""
        return {each.blob: tensors.DTYPES[each.dtype] for each in update.tensors if each.raw}

    def sum_unfit(self, update: pb.Sum, first: pb.Outcome, landed: Sequence[Landed]) -> str | None:
        """Why a worker's sum must not count, or None; only one of one update can be unfit."""
        for tensor in update.tensors:
            if tensor.raw:
                magnitudes = landed[tensor.blob].magnitudes(tensors.DTYPES[tensor.dtype])
                reason = updates.unfit(tensor.name, magnitudes, self.weight(first))
                if reason is not None:
                    return reason
        return None

    # ------------------------------------------------------------- the sum

    def add(
        self,
        outcome: pb.Outcome,
        blobs: Sequence[pb.Blob],
        landed: Sequence[Landed],
        sent: Mapping[str, Sent],
    ) -> None:
        """Count an update. The order in which they are counted does not change the mean."""
        weight = self.weight(outcome)
        with self._lock:
            place = self._count([outcome])
            for item in updates.arrays(outcome.content):
                before = sent[item.name]
                if (item.dtype, blobs[item.blob].digest) == (before.dtype, before.blob.digest):
                    self._leave(item.name, before, [place])
                else:
                    self._add(self._tensor(item.name, item.dtype), landed[item.blob], weight)

    def add_sum(
        self,
        update: pb.Sum,
        outcomes: Sequence[pb.Outcome],
        landed: Sequence[Landed],
        sent: Mapping[str, Sent],
    ) -> None:
        """Count the updates of a worker's sum, which end in these outcomes."""
        with self._lock:
            first = self._count(outcomes)
            for tensor in update.tensors:
                if tensor.unchanged:
                    places = [first + place for place in tensor.unchanged]
                    self._leave(tensor.name, sent[tensor.name], places)
                if tensor.raw:
                    sums = self._tensor(tensor.name, tensor.dtype)
                    self._add(sums, landed[tensor.blob], self._weights[first])
                elif tensor.blocks:
                    _merge(self._tensor(tensor.name, tensor.dtype), tensor, landed[tensor.blob])

    def add_late(self, late: Late, sent: Mapping[str, Sent], share: float) -> None:
        """Count a late update by a share of what it changed, on top of what is ``sent`` now.

        The update ``w_i`` to what was sent then, ``w_v``, counts as
        ``w_t + share * (w_i - w_v)`` with what is sent now, ``w_t``, and with its own weight: the
        buffered aggregation of Nguyen et al. 2022, "Federated learning with buffered asynchronous
        aggregation", algorithm 1, in which a round's strategy takes the server's step. All of it
        is linear, so the order does not matter here, either. Rejected where it is too large.
        """
        weight = self.weight(late.outcome)
        changed = [
            item
            for item in updates.arrays(late.outcome.content)
            if (item.dtype, late.digests[item.blob]) != _of(late.sent[item.name])
        ]
        for item in changed:
            before = late.sent[item.name]
            peak = max(peaks_of(_elements(before)), default=0.0)
            if not TensorSum.holds(weight * peak):
                raise Rejected("what its client was sent is too large to be summed")
        with self._lock:
            place = self._count([late.outcome], parts=2)
            for name in self.shapes:
                self._leave(name, sent[name], [place])
            for item in changed:
                before = late.sent[item.name]
                self._add(
                    self._tensor(item.name, item.dtype), late.landed[item.blob], share * weight
                )
                known = Landed.known(before.blob.data)
                self._add(self._tensor(item.name, before.dtype), known, -share * weight)

    def _leave(self, name: str, before: Sent, places: list[int]) -> None:
        key = (before.dtype, before.blob.digest)
        self._unchanged[name].setdefault(key, (before, []))[1].extend(places)

    def _count(self, outcomes: Sequence[pb.Outcome], parts: int = 1) -> int:
        """The place of the first among all that have counted. ``parts``: that each is added in."""
        assert self._mean is None, "the mean has been taken"
        self._left -= parts * len(outcomes)
        if self._left < 0:
            raise Rejected("more updates than the phase asked for")
        first = len(self._weights)
        self._calls += [outcome.call for outcome in outcomes]
        self._weights += [self.weight(outcome) for outcome in outcomes]
        return first

    @staticmethod
    def _add(sums: TensorSum, landed: Landed, weight: float) -> None:
        for start, values, peaks in landed.blocks(sums.dtype):
            sums.add(start, values, weight, peaks)

    def _tensor(self, name: str, dtype: str) -> TensorSum:
        by_dtype = self._sums[name]
        if dtype not in by_dtype:
            size = math.prod(self.shapes[name])
            by_dtype[dtype] = TensorSum(tensors.DTYPES[dtype], size, self._bits)
        return by_dtype[dtype]

    @property
    def weights(self) -> list[float]:
        """Of the updates that have counted."""
        with self._lock:
            return list(self._weights)

    def mean(self) -> dict[str, Array]:
        """The weighted mean, in the order of what was sent; taking it ends the sum."""
        with self._lock:
            if self._mean is None:
                total = math.fsum(self._weights)  # exact, whatever the order
                self._mean = {
                    name: self._mean_of(name, total).reshape(shape)
                    for name, shape in self.shapes.items()
                }
            return self._mean

    @property
    def unchanged(self) -> Mapping[str, bytes]:
        """Digests of what was sent, by name, of the arrays whose mean that is."""
        return self._same

    def restore(self, mean: Mapping[str, Array], weights: Sequence[float]) -> None:
        """Take the mean of updates that were counted before the server was begun again."""
        with self._lock:
            assert not self._weights, "updates have been counted already"
            self._mean, self._weights = dict(mean), list(weights)

    def _mean_of(self, name: str, total: float) -> Array:
        unchanged = self._unchanged[name]
        if len(unchanged) == 1 and not self._sums[name]:
            ((before, _),) = unchanged.values()
            array = np.frombuffer(before.blob.data, tensors.DTYPES[before.dtype])
            if mean_dtype(array.dtype) == array.dtype:
                self._same[name] = before.blob.digest
                return array
            return array.astype(mean_dtype(array.dtype))
        for key in sorted(unchanged):
            before, places = unchanged[key]
            weight = math.fsum(self._weights[place] for place in places)
            landed = Landed.known(before.blob.data)
            self._add(self._tensor(name, before.dtype), landed, weight)
        sums = self._sums[name]
        means = [sums.pop(key).take_mean(total) for key in sorted(sums)]
        if len(means) == 1:
            return means[0]
        mixed: Array = np.sum([each.astype(np.float64) for each in means], axis=0)
        result: Array = mixed.astype(np.result_type(*means))
        return result


def _of(sent: Sent) -> tuple[str, bytes]:
    return sent.dtype, sent.blob.digest


def _elements(sent: Sent) -> Array:
    return np.frombuffer(sent.blob.data, tensors.DTYPES[sent.dtype])


def _merge(sums: TensorSum, tensor: pb.SumTensor, landed: Landed) -> None:
    offset = 0
    for block, number in zip(tensor.blocks, tensor.bins, strict=True):
        size = sums.part_bytes(block, number)
        values = np.frombuffer(landed.read(offset, size), np.int64)
        sums.merge(Part(block, number, values))
        offset += size

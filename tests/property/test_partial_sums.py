"""The laws of partial sums: no order and no grouping changes a bit, and the error is bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedkube.core.errors import Rejected
from fedkube.core.partial_sums import (
    BLOCK,
    STEP,
    Flat,
    Part,
    TensorSum,
    bits_for,
    largest,
    levels_of,
    mean_dtype,
)
from fedkube.wire.tensors import DTYPES

# Nothing that a sum does may make NumPy warn: a warning is an overflow that nobody thought of.
pytestmark = pytest.mark.filterwarnings("error")

# The edges of the range that the module declares.
LOWEST_BIN, HIGHEST_BIN = -96, 120
LARGEST_PRODUCT = 2.0 ** (STEP * HIGHEST_BIN)

NAMES = st.sampled_from(list(DTYPES))
SIZES = st.sampled_from([0, 1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
WEIGHTS = st.integers(1, 10_000_000) | st.floats(2.0**-20, 2.0**40)
BITS = st.sampled_from([1, 10, 1000, 4097, 10**6]).map(bits_for)


@dataclass
class Contribution:
    values: Flat
    weight: float


# ---------------------------------------------------------------- what is summed


def _of_any_magnitude(dtype: np.dtype[Any], size: int, rng: np.random.Generator) -> Flat:
    """Every exponent as likely as another, subnormal numbers and the largest ones included."""
    if dtype.kind == "b":
        return rng.integers(0, 2, size).astype(dtype)
    values = np.frombuffer(rng.bytes(size * dtype.itemsize), dtype).copy()
    if dtype.kind == "f":
        values[~np.isfinite(values)] = 0
        # Products from there on are refused, and a weight is below 2**41.
        values[np.abs(values.astype(np.float64)) >= LARGEST_PRODUCT * 2.0**-41] = 0
    return values


def _ordinary(dtype: np.dtype[Any], size: int, rng: np.random.Generator) -> Flat:
    scale = 2.0 ** rng.integers(-8, 12) if dtype.kind == "f" else 60
    with np.errstate(invalid="ignore"):  # negative numbers as unsigned ones: any will do
        return (rng.standard_normal(size) * scale).astype(dtype)


def _least(dtype: np.dtype[Any], size: int, rng: np.random.Generator) -> Flat:
    least = np.finfo(dtype).smallest_subnormal if dtype.kind == "f" else 1
    return np.where(rng.integers(0, 2, size) > 0, least, 0).astype(dtype)


def _greatest(dtype: np.dtype[Any], size: int, rng: np.random.Generator) -> Flat:
    if dtype.kind == "b":
        return np.ones(size, dtype)
    if dtype.name == "float64":
        ends = [np.nextafter(LARGEST_PRODUCT * 2.0**-41, 0.0)] * 2
        ends[0] = -ends[0]
    else:
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        ends = [limits.min, limits.max]
    return np.array(ends, dtype)[rng.integers(0, 2, size)]


def _zeros(dtype: np.dtype[Any], size: int, rng: np.random.Generator) -> Flat:
    zeros = np.zeros(size, dtype)
    return np.negative(zeros) if dtype.kind == "f" and rng.integers(2) else zeros


_KINDS = (_of_any_magnitude, _ordinary, _least, _greatest, _zeros)
_Maker = Callable[[np.dtype[Any], int, np.random.Generator], Flat]


@st.composite
def contributions(
    draw: st.DrawFn, name: str, size: int, kinds: tuple[_Maker, ...] = _KINDS
) -> list[Contribution]:
    """Some clients' values. What Hypothesis chooses is their kind; a generator fills them in."""
    dtype = DTYPES[name]
    made = []
    for _ in range(draw(st.integers(1, 6))):
        make = draw(st.sampled_from(kinds))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        values = make(dtype, size, rng)
        values.setflags(write=False)  # as received bytes are
        made.append(Contribution(values, draw(WEIGHTS)))
    return made


@st.composite
def tensors(
    draw: st.DrawFn, kinds: tuple[_Maker, ...] = _KINDS
) -> tuple[str, int, list[Contribution]]:
    name, size = draw(NAMES), draw(SIZES)
    return name, size, draw(contributions(name, size, kinds))


def peaks_of(values: Flat) -> list[float]:
    return [largest(values[at : at + BLOCK]) for at in range(0, len(values), BLOCK)]


def add(sums: TensorSum, each: Contribution, blocks_at_once: int = 3) -> None:
    chunk = blocks_at_once * BLOCK
    for start in range(0, len(each.values), chunk):
        values = each.values[start : start + chunk]
        sums.add(start, values, each.weight, peaks_of(values))


def summed(name: str, size: int, bits: int, given_: list[Contribution]) -> TensorSum:
    sums = TensorSum(DTYPES[name], size, bits)
    for each in given_:
        add(sums, each)
    return sums


def total_of(given_: list[Contribution]) -> float:
    return math.fsum(each.weight for each in given_)


def state(sums: TensorSum) -> list[tuple[int, int, bytes]]:
    return [(part.block, part.bin, part.values.tobytes()) for part in sums.parts()]


# ---------------------------------------------------------------- order and grouping


@given(st.data(), tensors(), BITS, st.sampled_from([1, 2, 3]))
def test_no_order_and_no_chunking_changes_a_bit(
    data: st.DataObject, tensor: tuple[str, int, list[Contribution]], bits: int, chunk: int
) -> None:
    name, size, clients = tensor
    straight = summed(name, size, bits, clients)
    other = TensorSum(DTYPES[name], size, bits)
    for each in data.draw(st.permutations(clients)):
        add(other, each, chunk)
    assert state(other) == state(straight)
    total = total_of(clients)
    assert other.take_mean(total).tobytes() == straight.take_mean(total).tobytes()


@given(st.data(), tensors(), BITS)
def test_no_grouping_and_no_tree_of_merges_changes_a_bit(
    data: st.DataObject, tensor: tuple[str, int, list[Contribution]], bits: int
) -> None:
    name, size, clients = tensor
    straight = summed(name, size, bits, clients)
    groups = data.draw(
        st.lists(st.integers(0, 3), min_size=len(clients), max_size=len(clients)), label="groups"
    )
    # Groups that nobody is in stay: an empty sum is the identity of merging.
    forest = [
        summed(name, size, bits, [c for c, of in zip(clients, groups, strict=True) if of == group])
        for group in range(4)
    ]
    while len(forest) > 1:
        source = forest.pop(data.draw(st.integers(0, len(forest) - 1), label="source"))
        target = forest[data.draw(st.integers(0, len(forest) - 1), label="target")]
        for part in data.draw(st.permutations(list(source.parts())), label="parts"):
            # What travels is bytes, and what is made of them cannot be written to.
            values = np.frombuffer(part.values.tobytes(), np.int64)
            target.merge(Part(part.block, part.bin, values))
    assert state(forest[0]) == state(straight)
    total = total_of(clients)
    assert forest[0].take_mean(total).tobytes() == straight.take_mean(total).tobytes()


# Hypothesis finds its way with a few elements, down to single numbers that shrink.
@settings(max_examples=200)
@given(st.data(), st.sampled_from(["float16", "float32", "float64"]))
def test_no_order_of_any_floats_changes_a_bit(data: st.DataObject, name: str) -> None:
    numbers = hnp.from_dtype(DTYPES[name], allow_nan=False, allow_infinity=False)
    elements = numbers.filter(lambda value: abs(float(value)) < LARGEST_PRODUCT * 2.0**-41)
    values = hnp.arrays(DTYPES[name], 2, elements=elements)
    made = data.draw(st.lists(st.builds(Contribution, values, WEIGHTS), min_size=1, max_size=5))
    total = total_of(made)
    means = {
        summed(name, 2, 50, order).take_mean(total).tobytes()
        for order in (made, made[::-1], data.draw(st.permutations(made)))
    }
    assert len(means) == 1


# ---------------------------------------------------------------- the error


def _error_bound(name: str, bits: int, clients: list[Contribution], at: int) -> Fraction:
    """How far the float64 sum of element ``at`` may be from the exact one.

    By the module's docstring: each contribution loses ``2**(STEP - bits - 1)`` of the largest
    product of its block (``bits`` more are kept of wide types; below the lowest bin the unit does
    not shrink). To that come float64's own roundings: of a product, and, in the mean, of each
    bin's level as it is converted and added.
    """
    kept = bits * levels_of(DTYPES[name])
    bins = HIGHEST_BIN - LOWEST_BIN + 1
    roundings = 2 * levels_of(DTYPES[name]) * min(bins, len(clients)) + 1
    lost = Fraction(0)
    for each in clients:
        block = at // BLOCK * BLOCK
        peak = Fraction(each.weight * largest(each.values[block : block + BLOCK]))
        if peak == 0:  # underflow
            lost += Fraction(2) ** -1074
            continue
        lost += max(
            peak * Fraction(2) ** (STEP - kept - 1),
            Fraction(2) ** (STEP * LOWEST_BIN - kept - 1),
        )
        lost += abs(_exact(each, at)) * Fraction(2) ** -53 * roundings * 2 + Fraction(2) ** -1074
    return lost


def _exact(each: Contribution, at: int) -> Fraction:
    value = each.values[at]
    number = int(value) if value.dtype.kind in "biu" else float(value)
    return Fraction(each.weight) * Fraction(number)


def _places(size: int) -> list[int]:
    """A few elements at the edges of blocks, and some between."""
    wanted = {0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, size // 2, size - 1}
    return sorted(place for place in wanted if 0 <= place < size)


@given(tensors(), BITS)
# In the lowest bin, the unit is as large as the numbers, and larger.
@example(("float64", 1, [Contribution(np.full(1, 5e-324), 1.0)]), 50)
@example(("float64", 1, [Contribution(np.full(1, 2.0**-770), 3)]), 50)
def test_the_mean_is_as_near_the_exact_one_as_the_docstring_says(
    tensor: tuple[str, int, list[Contribution]], bits: int
) -> None:
    name, size, clients = tensor
    total = total_of(clients)
    # Of the exact sum over the same total: what is tested here is the sum.
    mean = summed(name, size, bits, clients).take_mean(total)
    assert mean.dtype == mean_dtype(DTYPES[name])
    limits: np.finfo[Any] = np.finfo(mean.dtype.name)
    for at in _places(size):
        exact = sum((_exact(each, at) for each in clients), Fraction(0)) / Fraction(total)
        bound = _error_bound(name, bits, clients, at) / Fraction(total)
        # The quotient is rounded to float64, and that to the mean's type.
        bound += (abs(exact) + bound) * (Fraction(2) ** -52 + Fraction(float(limits.eps)) / 2)
        bound += Fraction(float(limits.smallest_subnormal))
        assert np.isfinite(mean[at]), "a mean of finite numbers is a finite number"
        assert abs(Fraction(float(mean[at])) - exact) <= bound


@given(
    SIZES.filter(bool),
    st.lists(st.integers(1, 100_000), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_a_mean_of_ordinary_float32_is_the_exact_one_to_float32_rounding(
    size: int, weights: list[int], seed: int
) -> None:
    """Where an element is no less than 2**-17 of what its block holds: what the bits are for."""
    rng = np.random.default_rng(seed)
    # One sign, so that nothing cancels: there, no sum of floats is near in relative terms.
    clients = [
        Contribution(np.exp2(rng.uniform(-10, 6, size)).astype(np.float32), weight)
        for weight in weights
    ]
    mean = summed("float32", size, bits_for(len(clients)), clients).take_mean(total_of(clients))
    for at in _places(size):
        exact = sum((_exact(each, at) for each in clients), Fraction(0)) / sum(weights)
        unit = Fraction(float(np.spacing(np.float32(float(exact)))))
        assert abs(Fraction(float(mean[at])) - exact) <= unit * Fraction(51, 100)


@given(tensors((_ordinary,)), st.integers(1, 1000))
def test_a_mean_of_the_same_is_the_same(
    tensor: tuple[str, int, list[Contribution]], weight: int
) -> None:
    """Averaging what did not change must not make it drift."""
    name, size, clients = tensor
    values = clients[0].values
    same = [Contribution(values, weight + index) for index in range(3)]
    mean = summed(name, size, 50, same).take_mean(total_of(same)).astype(np.float64)
    expected = values.astype(np.float64)
    if name == "float64":  # whose last bit the weights' products round
        assert np.all(np.abs(mean - expected) <= 4 * np.spacing(np.abs(expected)))
        return
    for start in range(0, size, BLOCK):
        block = slice(start, start + BLOCK)
        # Elements that are small beside the block's largest have fewer bits.
        large = np.abs(expected[block]) >= largest(values[block]) * 2.0**-18
        assert np.array_equal(mean[block][large], expected[block][large])


# ---------------------------------------------------------------- no overflow


@given(st.integers(0, 2**61))
@example(4096)
@example(4097)
@example(2**40 + 1)
@example(2**49 + 1)
def test_so_many_contributions_stay_within_62_bits(count: int) -> None:
    bits = bits_for(count)
    assert 1 <= bits <= 50
    # The last bit of log2 may be lost for a count just above a power of two: hence the spare bit.
    assert count << bits <= 2**62 + 2**20
    # No smaller than it has to be.
    assert bits == 50 or max(2, count) << (bits + 1) > 2**62


@given(
    st.sampled_from(["float16", "float32", "float64", "int64", "uint64"]),
    st.sampled_from([2, 5, 4096, 4097, 10**6]),
    st.integers(LOWEST_BIN, HIGHEST_BIN),
    st.sampled_from([-1, 1]),
)
def test_what_one_contribution_adds_is_at_most_two_to_the_bits(
    name: str, count: int, number: int, sign: int
) -> None:
    """The largest product that a bin takes, whatever the element type."""
    bits = bits_for(count)
    product = np.nextafter(2.0 ** (STEP * number), 0.0)
    values = np.full(1, 1 if name == "uint64" else sign, DTYPES[name])
    sums = TensorSum(DTYPES[name], 1, bits)
    sums.add(0, values, float(product), [1.0])
    (part,) = sums.parts()
    assert part.bin == number
    multiples = [int(each) for each in part.values]
    assert all(abs(each) <= 2**bits for each in multiples)
    assert abs(multiples[0]) == 2**bits  # the edge is reached, so the bound is sharp
    # And so many of them, with the spare bit, are far from the end of int64.
    assert all(abs(each) * count < 2**63 for each in multiples)


# ---------------------------------------------------------------- what is refused


@given(
    st.data(),
    tensors(),
    st.sampled_from([math.nan, math.inf, -math.inf, LARGEST_PRODUCT, 1.7e308]),
)
def test_what_cannot_be_summed_leaves_the_sum_as_it_was(
    data: st.DataObject, tensor: tuple[str, int, list[Contribution]], peak: float
) -> None:
    name, size, clients = tensor
    sums = summed(name, size, 50, clients)
    before = state(sums)
    values = np.ones(size, DTYPES[name])
    peaks = peaks_of(values)
    if peaks:
        peaks[data.draw(st.integers(0, len(peaks) - 1))] = peak
        with pytest.raises(Rejected, match="too large to be summed"):
            sums.add(0, values, 1.0, peaks)
    assert state(sums) == before


@settings(max_examples=200)
@given(
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([0, 1, 3, BLOCK + 1]),
    st.integers(-2, 3) | st.integers(-(2**31), 2**32),
    st.integers(-100, 125) | st.integers(-(2**31), 2**31),
    st.integers(0, 8) | st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 2]),
)
def test_a_part_is_merged_or_refused_and_then_leaves_the_sum_as_it_was(
    name: str, size: int, block: int, number: int, length: int
) -> None:
    sums = TensorSum(DTYPES[name], size, 50)
    sums.add(0, np.ones(size, DTYPES[name]), 1, [1.0] * -(-size // BLOCK))
    before = state(sums)
    fits = (
        0 <= block < -(-size // BLOCK)
        and LOWEST_BIN <= number <= HIGHEST_BIN
        and length == sums.levels * sums.length(block)
    )
    part = Part(block, number, np.ones(length, np.int64))
    if not fits:
        with pytest.raises(Rejected):
            sums.merge(part)
        assert state(sums) == before
        return
    sums.merge(part)
    held = {(each.block, each.bin): each.values for each in sums.parts()}
    was = {(at, bin_): np.frombuffer(raw, np.int64) for at, bin_, raw in before}
    assert np.array_equal(held.pop((block, number)), was.pop((block, number), 0) + part.values)
    assert {key: values.tobytes() for key, values in held.items()} == {
        key: values.tobytes() for key, values in was.items()
    }

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from fedkube.core.errors import Rejected
from fedkube.core.partial_sums import (
    BLOCK,
    Part,
    TensorSum,
    bits_for,
    largest,
    levels_of,
    mean_dtype,
)
from fedkube.wire.tensors import DTYPES

pytestmark = pytest.mark.filterwarnings("error")

EVERY_TYPE = pytest.mark.parametrize("name", list(DTYPES))


def nbytes_of(sums: TensorSum) -> int:
    """Memory that a sum takes."""
    return sum(part.values.nbytes for part in sums.parts())


def sum_of(*clients: list[float], name: str = "float32", bits: int = 50) -> TensorSum:
    sums = TensorSum(DTYPES[name], len(clients[0]), bits)
    for values in clients:
        array = np.array(values, DTYPES[name])
        sums.add(0, array, 1.0, [largest(array)])
    return sums


def held(sums: TensorSum) -> dict[tuple[int, int], list[int]]:
    return {(part.block, part.bin): part.values.tolist() for part in sums.parts()}


# ---------------------------------------------------------------- what is added to which bin


@pytest.mark.parametrize(
    ("value", "number", "multiple"),
    [
        (1.0, 1, 2**42),
        (-1.0, 1, -(2**42)),
        (255.0, 1, 255 * 2**42),
        (256.0, 2, 2**42),  # a bin's bound is above what it holds
        (0.5, 0, 2**49),
        (2.0**-8, 0, 2**42),
        (2.0**-9, -1, 2**49),
        (3.0e38, 16, round(float(np.float32(3.0e38)) / 2.0**78)),
        (2.0**-149, -18, 2**45),
    ],
)
def test_a_number_is_so_many_units_of_its_bin(value: float, number: int, multiple: int) -> None:
    """Known answers: the two ends of a session and every relay must come to the same integers."""
    assert held(sum_of([value])) == {(0, number): [multiple]}


@pytest.mark.parametrize(
    ("value", "multiple"),
    [
        (0.49 * 2.0**-42, 0),
        (0.51 * 2.0**-42, 1),
        (-0.51 * 2.0**-42, -1),
        (0.5 * 2.0**-42, 0),  # a tie goes to the even one
        (1.5 * 2.0**-42, 2),
        (2.5 * 2.0**-42, 2),
        (-1.5 * 2.0**-42, -2),
    ],
)
def test_a_small_number_is_rounded_to_the_unit_of_its_blocks_largest(
    value: float, multiple: int
) -> None:
    assert held(sum_of([1.0, value])) == {(0, 1): [2**42, multiple]}


def test_wide_types_keep_what_the_first_level_rounds_off() -> None:
    # One row of integers after the other.
    sums = sum_of([1.0 + 2.0**-52, -1.0 - 2.0**-44], name="float64")
    assert held(sums) == {(0, 1): [2**42, -(2**42), 2**40, -(2**48)]}
    assert sums.take_mean(1.0).tolist() == [1.0 + 2.0**-52, -1.0 - 2.0**-44]


def test_fewer_bits_make_a_larger_unit() -> None:
    assert held(sum_of([1.0], bits=10)) == {(0, 1): [4]}


@pytest.mark.parametrize("value", [2.0**-769, 2.0**-800, 5e-324])
def test_the_tiniest_numbers_share_the_lowest_bin(value: float) -> None:
    ((key, multiples),) = held(sum_of([value], name="float64")).items()
    assert key == (0, -96)
    unit = 2.0**-868
    assert multiples[0] * 2.0**-818 + multiples[1] * unit == round(value / unit) * unit


def test_the_weight_decides_the_bin() -> None:
    sums = TensorSum(DTYPES["float32"], 1, 50)
    for weight in (1, 1000, 2.0**-20):
        sums.add(0, np.ones(1, "<f4"), weight, [1.0])
    assert held(sums) == {(0, -2): [2**46], (0, 1): [2**42], (0, 2): [1000 * 2**34]}


def test_each_block_has_its_own_bins() -> None:
    values = np.ones(2 * BLOCK + 1, "<f4")
    values[BLOCK : 2 * BLOCK] = 1000
    values[-1] = 0.25
    sums = TensorSum(values.dtype, values.size, 50)
    # In two calls, as the bytes come; the second begins at the second block.
    sums.add(0, values[:BLOCK], 1.0, [1.0])
    sums.add(BLOCK, values[BLOCK:], 1.0, [1000.0, 0.25])
    assert [(part.block, part.bin, part.values.size) for part in sums.parts()] == [
        (0, 1, BLOCK),
        (1, 2, BLOCK),
        (2, 0, 1),
    ]
    assert np.array_equal(sums.take_mean(1.0), values)


def test_parts_come_by_block_and_then_by_bin_whatever_was_added_first() -> None:
    size = BLOCK + 1
    sums = TensorSum(DTYPES["float32"], size, 50)
    for value in (1.0, 1000.0, 0.01):
        sums.add(BLOCK, np.full(1, value, "<f4"), 1.0, [value])
        sums.add(0, np.full(BLOCK, value, "<f4"), 1.0, [value])
    assert [(part.block, part.bin) for part in sums.parts()] == [
        (block, number) for block in (0, 1) for number in (0, 1, 2)
    ]


def test_a_large_number_does_not_swallow_a_small_one_of_another_client() -> None:
    """In float64, 1e200 + 1 - 1e200 is 0."""
    sums = sum_of([1e200], [1.0], [-1e200], name="float64")
    assert sums.take_mean(1.0).tolist() == [1.0]


@pytest.mark.parametrize("clients", [*permutations([1.0, 2.0**-53, 2.0**-62])])
def test_bins_are_put_together_in_one_order_whatever_came_first(clients: tuple[float, ...]) -> None:
    """From the coarse to the fine, or as they came, the two small ones would be lost one by one."""
    sums = sum_of(*([value] for value in clients), name="float64")
    assert len(held(sums)) == 3
    assert sums.take_mean(1.0).tolist() == [1.0 + 2.0**-52]


# ---------------------------------------------------------------- memory


def test_zeros_take_no_memory() -> None:
    sums = sum_of([0.0, -0.0], [0.0, 0.0])
    assert (nbytes_of(sums), list(sums.parts())) == (0, [])


@pytest.mark.parametrize(
    ("name", "clients", "nbytes"),
    [
        ("float32", [[1.0, 2.0], [200.0, 0.0]], 16),  # a bin is shared
        ("float32", [[1.0, 2.0], [300.0, 0.0]], 32),
        ("float64", [[1.0, 2.0], [200.0, 0.0]], 32),
    ],
)
def test_a_sum_takes_eight_bytes_an_element_bin_and_level(
    name: str, clients: list[list[float]], nbytes: int
) -> None:
    assert nbytes_of(sum_of(*clients, name=name)) == nbytes


def test_a_merged_part_is_copied() -> None:
    """Else two sums would share their integers, and one client would count twice."""
    source, target = sum_of([1.0]), TensorSum(DTYPES["float32"], 1, 50)
    (part,) = source.parts()
    target.merge(part)
    target.merge(part)
    assert held(target) == {(0, 1): [2**43]}
    assert held(source) == {(0, 1): [2**42]}


# ---------------------------------------------------------------- no overflow


@pytest.mark.parametrize(
    ("contributions", "bits"),
    [(0, 50), (1, 50), (2, 50), (4096, 50), (4097, 49), (10**6, 42), (2**40, 22), (2**61, 1)],
)
def test_bits_are_given_up_for_more_contributions(contributions: int, bits: int) -> None:
    assert bits_for(contributions) == bits


@pytest.mark.parametrize("contributions", [1, 2, 4096, 4097, 10**6, 2**40 - 1, 2**40])
@pytest.mark.parametrize("sign", [-1, 1])
def test_so_many_of_the_largest_contributions_do_not_overflow(
    contributions: int, sign: int
) -> None:
    """As parts that stand for ever more contributions: adding 2**40 one by one takes too long."""
    bits = bits_for(contributions)
    sums = TensorSum(DTYPES["float32"], 1, bits)
    left, share = contributions, 1
    while left:
        share = min(share, left)
        sums.merge(Part(0, 1, np.array([sign * share * 2**bits], np.int64)))
        left -= share
        share *= 2
    assert held(sums) == {(0, 1): [sign * contributions * 2**bits]}
    # Each is 2**8, the bound of the bin.
    assert sums.take_mean(float(contributions)).tolist() == [sign * 256.0]


def test_the_largest_product_adds_two_to_the_bits_and_no_more() -> None:
    """It is rounded up to its bin's bound, which no product reaches."""
    largest_below = float(np.nextafter(256.0, 0.0))
    assert held(sum_of([largest_below], name="float64")) == {(0, 1): [2**50, -(2**55) // 2**8]}
    assert held(sum_of([-largest_below], name="float64")) == {(0, 1): [-(2**50), 2**47]}


# ---------------------------------------------------------------- what is refused


def edge_sum() -> TensorSum:
    sums = TensorSum(DTYPES["float32"], BLOCK + 2, 50)
    values = np.ones(BLOCK + 2, "<f4")
    sums.add(0, values, 1.0, [1.0, 1.0])
    return sums


@pytest.mark.parametrize("peak", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_and_leaves_the_sum_as_it_was(peak: float) -> None:
    sums = edge_sum()
    before = held(sums)
    values = np.ones(BLOCK + 2, "<f4")
    # In the last block: the ones before it must not have been added.
    with pytest.raises(Rejected, match="too large to be summed"):
        sums.add(0, values, 1.0, [1.0, peak])
    assert held(sums) == before


@pytest.mark.parametrize(
    ("peak", "weight"),
    [(2.0**960, 1.0), (2.0**950, 1024), (1.0, 2.0**960), (1.7e308, 1e300), (1.0, math.inf)],
)
def test_a_product_of_2_to_the_960_is_refused(peak: float, weight: float) -> None:
    sums = TensorSum(DTYPES["float64"], 1, 50)
    with pytest.raises(Rejected, match="too large to be summed"):
        sums.add(0, np.full(1, peak), weight, [peak])
    assert held(sums) == {}
    assert not TensorSum.holds(peak * weight)


def test_the_largest_product_below_is_summed() -> None:
    value = float(np.nextafter(2.0**960, 0.0))
    assert TensorSum.holds(value)
    sums = sum_of([value], [-value], [value], name="float64")
    assert [number for _, number in held(sums)] == [120]
    assert sums.take_mean(1.0).tolist() == [value]


@pytest.mark.parametrize("block", [-1, 2, 2**32 - 1])
def test_a_part_of_another_block_is_refused(block: int) -> None:
    assert_refused(Part(block, 1, np.ones(2, np.int64)), rf"has block {block} of 2")


@pytest.mark.parametrize("number", [-97, 121, -(2**31), 2**31 - 1])
def test_a_part_of_an_impossible_bin_is_refused(number: int) -> None:
    assert_refused(Part(1, number, np.ones(2, np.int64)), rf"has bin {number}")


@pytest.mark.parametrize("length", [0, 1, 3, 4, BLOCK])
def test_a_part_of_another_length_is_refused(length: int) -> None:
    # In a bin that is there, and in one that is not.
    for number in (1, 2):
        assert_refused(
            Part(1, number, np.ones(length, np.int64)), "block 1 of a partial sum has another"
        )


def assert_refused(part: Part, reason: str) -> None:
    sums = edge_sum()
    before = held(sums)
    with pytest.raises(Rejected, match=reason):
        sums.merge(part)
    assert held(sums) == before


def test_nothing_can_be_a_part_of_an_empty_tensor() -> None:
    sums = TensorSum(DTYPES["float32"], 0, 50)
    with pytest.raises(Rejected, match="has block 0 of 0"):
        sums.merge(Part(0, 1, np.zeros(0, np.int64)))


@pytest.mark.parametrize(("name", "levels"), [("float32", 1), ("float64", 2), ("int32", 2)])
def test_a_parts_bytes_are_known_before_it_comes(name: str, levels: int) -> None:
    sums = TensorSum(DTYPES[name], BLOCK + 2, 50)
    assert sums.part_bytes(0, -96) == 8 * levels * BLOCK
    assert sums.part_bytes(1, 120) == 8 * levels * 2


# ---------------------------------------------------------------- the mean


@EVERY_TYPE
@pytest.mark.parametrize("size", [0, 1, BLOCK + 1])
def test_the_mean_of_nothing_is_zeros(name: str, size: int) -> None:
    mean = TensorSum(DTYPES[name], size, 50).take_mean(3.0)
    assert (mean.shape, mean.dtype) == ((size,), mean_dtype(DTYPES[name]))
    assert not mean.any()


def test_the_mean_ends_the_sum() -> None:
    sums = sum_of([1.0, 2.0])
    assert sums.take_mean(1.0).tolist() == [1.0, 2.0]
    assert (nbytes_of(sums), held(sums)) == (0, {})
    assert sums.take_mean(1.0).tolist() == [0.0, 0.0]


def test_a_mean_that_is_too_large_for_its_type_is_infinity() -> None:
    """What a client sends fits; what is made up, as here, need not."""
    sums = TensorSum(DTYPES["float16"], 1, 50)
    sums.merge(Part(0, 10, np.array([2**50], np.int64)))
    assert sums.take_mean(1.0).tolist() == [math.inf]


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_the_mean_of_the_largest_numbers_is_finite(name: str) -> None:
    top = float(np.finfo(name).max) if name != "float64" else 2.0**950
    sums = TensorSum(DTYPES[name], 2, 50)
    for weight in (3, 7, 0.1):
        sums.add(0, np.array([top, -top], DTYPES[name]), weight, [top])
    assert sums.take_mean(math.fsum([3, 7, 0.1])).tolist() == pytest.approx([top, -top])


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("float16", "float16"),
        ("float32", "float32"),
        ("float64", "float64"),
        *((name, "float64") for name in DTYPES if not name.startswith("float")),
    ],
)
def test_floats_keep_their_type_and_all_else_becomes_float64(name: str, mean: str) -> None:
    assert mean_dtype(DTYPES[name]) == np.dtype(mean)


@EVERY_TYPE
def test_what_is_wider_than_float32_has_two_levels(name: str) -> None:
    wide = {"int32", "int64", "uint32", "uint64", "float64"}
    assert levels_of(DTYPES[name]) == (2 if name in wide else 1)


@EVERY_TYPE
def test_every_type_is_averaged(name: str) -> None:
    values = np.array([0, 1, 1], DTYPES[name])
    sums = TensorSum(values.dtype, 3, 50)
    sums.add(0, values, 1, [1.0])
    sums.add(0, values[::-1], 3, [1.0])
    assert sums.take_mean(4.0).tolist() == [0.75, 1.0, 0.25]


# ---------------------------------------------------------------- the largest magnitude


@pytest.mark.parametrize(
    ("values", "peak"),
    [
        (np.array([], "<f4"), 0.0),
        (np.array([-0.0], "<f4"), 0.0),
        (np.array([1.0, -3.0], "<f2"), 3.0),
        (np.array([5e-324, 0.0]), 5e-324),
        (np.array([1.0, np.inf], "<f4"), math.inf),
        (np.array([-np.inf, 1.0], "<f4"), math.inf),
        (np.array([False, True]), 1.0),
        (np.array([False]), 0.0),
        (np.array([], "?"), 0.0),
        # The magnitude of the least integer is no number of its type.
        (np.array([-128, 127], "i1"), 128.0),
        (np.array([-(2**63), 0], "<i8"), 2.0**63),
        (np.array([2**64 - 1], "<u8"), 2.0**64),
    ],
    ids=str,
)
def test_the_largest_magnitude(values: np.ndarray, peak: float) -> None:
    assert largest(values) == peak


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
@pytest.mark.parametrize("place", [0, 1, 99])
def test_one_nan_is_found(name: str, place: int) -> None:
    values = np.ones(100, DTYPES[name])
    values[place] = np.nan
    assert math.isnan(largest(values))

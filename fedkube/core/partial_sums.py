"""Weighted partial sums of arrays: the unit of exchange, exact and independent of order.

A partial sum is ``sum of w_i * x_i`` over some clients ``i``, with their weights. Sums of floats
depend on the order of adding; these do not, so a mean is the same bit for bit whatever arrives
first, whichever worker served whom, and through however many relays it came.

How: the product ``y = fl64(w * x)`` depends on one client alone. Its block (``BLOCK`` elements) has
a largest magnitude ``m``, and ``j``, the least integer with ``m < 2**(STEP * j)``, names a *bin*.
Each ``y`` of the block is rounded to an integer multiple of the bin's unit ``2**(STEP * j - bits)``
and added to the bin's 64-bit integers. What a client adds to which bin is a function of that client
alone, and integer addition is exact, associative and commutative; so is the whole. The bins are
put together, in the order of their numbers, only when the mean is taken. This is binned summation
with pre-rounding (Demmel and Nguyen, "Parallel Reproducible Summation", 2015), with one bin per
contribution, or two for element types wider than float32.

Error: the rounding loses at most half a unit of each contribution, that is ``2**(STEP - bits - 1)``
of the largest product of its block; with ``bits = 50``, ``2**-43`` of it. Element types wider than
float32 keep a second level of ``bits`` more.

Memory: eight bytes an element and bin; blocks of similar magnitude share a bin, so that is mostly
one (``levels`` times as much for wider types).

Not thread-safe: one thread at a time may add to a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedkube.core.errors import Rejected

# Elements. Divides what a data frame holds of any element type, and fits a core's cache.
BLOCK = 32_768

# Width of a bin in powers of two. Narrower keeps more bits; wider lets more blocks share a bin.
STEP = 8

# 52 bits is what the rounding trick below can hold; two are left for its edges.
_MAX_BITS = 50

# Bins below this one are taken as this one: units must stay normal numbers.
_LOWEST_BIN = -96
# Products from 2**960 on are refused: nothing trains there, and the trick would overflow.
_HIGHEST_BIN = 120

_NARROW = ("bool", "int8", "uint8", "int16", "uint16", "float16", "float32")
_FLOATS = ("float16", "float32", "float64")

Flat = npt.NDArray[np.generic]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def bits_for(contributions: int) -> int:
    """How many bits below a bin's bound are kept, so that so many contributions never overflow.

    All who add to one sum must use the same.
    """
    return min(_MAX_BITS, 62 - math.ceil(math.log2(max(2, contributions))))


def levels_of(dtype: np.dtype[np.generic]) -> int:
    """How many integers hold an element: two for types of more bits than one can keep."""
    return 1 if dtype.name in _NARROW else 2


def mean_dtype(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The element type of a mean: floats keep theirs, integers and booleans become float64."""
    return np.dtype(dtype.name if dtype.name in _FLOATS else "float64")


def largest(values: Flat) -> float:
    """The largest magnitude; NaN or infinity where the values hold one."""
    if not values.size:
        return 0.0
    if values.dtype.kind == "f":
        return float(np.abs(values).max())
    if values.dtype.kind == "b":
        return float(values.any())
    return float(max(abs(int(values.min())), abs(int(values.max()))))


@dataclass(frozen=True, slots=True)
class Part:
    """One bin of one block: ``values`` are (levels x elements of the block,) int64."""

    block: int
    bin: int
    values: Ints


class TensorSum:
    """The partial sum of one tensor: (size,) of ``dtype``, flat."""

    __slots__ = ("_blocks", "_unit_bits", "dtype", "levels", "size")

    def __init__(self, dtype: np.dtype[np.generic], size: int, bits: int) -> None:
        self.dtype = dtype
        self.size = size
        self.levels = levels_of(dtype)
        self._unit_bits = bits
        self._blocks: list[dict[int, _Bin]] = [{} for _ in range(-(-size // BLOCK))]

    @staticmethod
    def holds(peak: float) -> bool:
        """Whether products of this magnitude can be summed."""
        return math.isfinite(peak) and math.frexp(peak)[1] <= STEP * _HIGHEST_BIN

    def add(self, start: int, values: Flat, weight: float, peaks: Sequence[float]) -> None:
        """Add ``weight * values``, which begin at element ``start``, a multiple of ``BLOCK``.

        ``peaks``: ``largest`` of each block of the values; Rejected where a product is too large
        to be summed.
        """
        # All are looked at before any is added: what is refused leaves the sum as it was.
        numbers = [_bin_of(weight * peak) for peak in peaks]
        products = np.empty(min(BLOCK, len(values)))
        rounded = products if self.levels == 1 else np.empty_like(products)
        for index, number in enumerate(numbers):
            at = index * BLOCK
            block = values[at : at + BLOCK]
            if number is not None:
                length = len(block)
                np.multiply(block, weight, out=products[:length], dtype=np.float64)
                place = start // BLOCK + index
                self._add_block(place, number, products[:length], rounded[:length])

    def _add_block(self, block: int, number: int, products: Floats, rounded: Floats) -> None:
        """Add a block's products; they are overwritten, and so is ``rounded``."""
        length = len(products)
        bins = self._blocks[block]
        first = number not in bins
        if first:
            bins[number] = _Bin(np.empty(self.levels * length, np.int64))
        into = bins[number]
        for level in range(self.levels):
            magic, _ = _magic(number, self._unit_bits * (level + 1))
            row = into.values[level * length : (level + 1) * length]
            bits = row.view(np.float64) if first else rounded
            # Adding the magic number rounds to a multiple of the unit, and leaves that multiple
            # in the low bits of the double.
            np.add(products, magic, out=bits)
            if level + 1 < self.levels:
                products -= bits - magic
            if not first:
                row += bits.view(np.int64)
        into.magics += 1

    def merge(self, part: Part) -> None:
        """Add what another sum of the same tensor holds in one bin; Rejected if it cannot be."""
        if part.values.nbytes != self.part_bytes(part.block, part.bin):
            raise Rejected(f"block {part.block} of a partial sum has another length")
        bins = self._blocks[part.block]
        if part.bin not in bins:
            bins[part.bin] = _Bin(np.zeros(len(part.values), np.int64))
        bins[part.bin].values += part.values

    def part_bytes(self, block: int, number: int) -> int:
        """The bytes that one bin of a block takes; Rejected where there can be no such."""
        if not 0 <= block < len(self._blocks):
            raise Rejected(f"a partial sum has block {block} of {len(self._blocks)}")
        if not _LOWEST_BIN <= number <= _HIGHEST_BIN:
            raise Rejected(f"a partial sum has bin {number}")
        return 8 * self.levels * self.length(block)

    def length(self, block: int) -> int:
        """How many elements a block has."""
        return min(BLOCK, self.size - block * BLOCK)

    def parts(self) -> Iterator[Part]:
        """Everything that was added, in a fixed order."""
        for block, bins in enumerate(self._blocks):
            for number in sorted(bins):
                yield Part(block, number, self._multiples(bins[number], number))

    def take_mean(self, total: float) -> npt.NDArray[np.generic]:
        """The sum over ``total``, (size,); the sum is given up, block by block, on the way."""
        mean = np.empty(self.size, mean_dtype(self.dtype))
        for block, bins in enumerate(self._blocks):
            length = self.length(block)
            value: Floats | None = None
            # From fine to coarse; any fixed order would do.
            for number in sorted(bins):
                multiples = self._multiples(bins[number], number)
                for level in reversed(range(self.levels)):
                    row = multiples[level * length : (level + 1) * length]
                    unit = math.ldexp(1.0, STEP * number - self._unit_bits * (level + 1))
                    scaled: Floats = np.multiply(row, unit, dtype=np.float64)
                    value = scaled if value is None else np.add(value, scaled, out=value)
            bins.clear()
            into = mean[block * BLOCK : block * BLOCK + length]
            if value is None:
                into[:] = 0
                continue
            with np.errstate(over="ignore"):  # a mean of numbers that fit may round up to infinity
                np.divide(value, total, out=into, casting="same_kind")
        return mean

    def _multiples(self, into: _Bin, number: int) -> Ints:
        """What a bin holds, freed of the magic numbers' bits."""
        length = len(into.values) // self.levels
        for level in range(self.levels if into.magics else 0):
            _, code = _magic(number, self._unit_bits * (level + 1))
            row = into.values[level * length : (level + 1) * length]
            # Modulo 2**64, as they were added.
            row -= np.array(into.magics * int(code) % 2**64, np.uint64).view(np.int64)
        into.magics = 0
        return into.values


@dataclass(slots=True)
class _Bin:
    """(levels x elements,) int64: multiples, with the bits of so many magic numbers in each."""

    values: Ints
    magics: int = 0


def _bin_of(peak: float) -> int | None:
    """The bin for products of at most this magnitude; None where all of them are zero."""
    if peak == 0.0:
        return None
    if not TensorSum.holds(peak):
        raise Rejected("it holds values that are too large to be summed")
    return max(-(-math.frexp(peak)[1] // STEP), _LOWEST_BIN)


def _magic(number: int, bits: int) -> tuple[np.float64, np.int64]:
    """The number that rounds by being added, for a bin's unit, and its bits as an integer."""
    magic = np.float64(math.ldexp(1.5, 52 + STEP * number - bits))
    return magic, magic.view(np.int64)

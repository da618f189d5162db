"""Updates in fewer bits: what is kept of the difference between an array and what it was made from.

A client's array differs little from the one that it was sent, so it is the difference that is
rounded, and the receiver adds it to what it has. Two encodings, of ``(n,)`` differences ``d``:

* ``bf16``: the upper half of each float32. Two bytes an element; a *step* is the gap between two
  neighbours of that format, at most ``2**-7`` of ``|d|``.
* ``int8``: blocks of ``BLOCK`` elements, each with a float32 scale ``s = max|d| / 127``, and the
  integers ``d / s``. A byte an element and 4 a block; a step is ``s``. The encoding is the scales
  of all blocks, then the integers.

Rounding, of ``v = d / step`` to an integer:

* *stochastic*: ``floor(|v| + u)`` with ``u`` uniform in [0, 1), and ``v``'s sign: off by less than
  a step, and right on average (to ``2**-16`` of a step, since ``u`` has 16 bits). This is QSGD's
  quantiser (Alistarh et al. 2017, section 3.1) with the largest magnitude in the norm's place.
  Who rounds keeps nothing, so any worker may serve a client next.
* *nearest, with error feedback*: off by half a step, and what is lost is kept and added to the
  next difference, so that in the long run nothing is lost (Seide et al. 2014, section 3;
  Karimireddy et al. 2019, algorithm 1). For a client that the same worker always serves.

Differences are taken in the array's own type (float32 or float64) and rounded from float32. All of
it works on ``_CHUNK`` elements at a time, which stay in a core's cache. No randomness is drawn
here: it is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from fedkube.core.errors import Rejected

# Elements that share a scale: 0.4 % on top of a byte each.
BLOCK = 1024

_CHUNK = 32 * BLOCK

# Differences beyond this travel as they are: their rounded values could not all be held.
_LARGEST = 2.0**126
# What a scale can be at most: twice ``_LARGEST`` over 127, since an error may have been added.
_LARGEST_SCALE = np.float32(2.0**121)
# And at least, so that dividing by it is exact to a float's precision.
_SMALLEST_SCALE = np.float32(2.0**-126)
_LEVELS = np.float32(127)
# What makes 16 bits a float that is nowhere 0 and nowhere 1: a zero stays zero and a whole number
# itself, and a quotient of 127, which may be off by its last bit, neither falls below nor above.
_NOISE_UNIT = np.float32(2.0**-16 * (1 - 2.0**-16))
_NOISE_LEAST = np.float32(2.0**-17)
_SIGN = np.uint32(1 << 31)

Floats = npt.NDArray[np.float32]
Noise = Callable[[int], npt.NDArray[np.uint16]]
Flat = npt.NDArray[Any]

# What can be compressed, by NumPy's name.
DTYPES = ("float32", "float64")


class Compression(StrEnum):
    """How the updates that clients send up are encoded."""

    NONE = "none"
    BF16 = "bf16"
    INT8 = "int8"


def packed_bytes(kind: Compression, size: int) -> int:
    """The bytes of so many elements' encoding."""
    if kind is Compression.BF16:
        return 2 * size
    return 4 * _blocks(size) + size


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


@dataclass(frozen=True, slots=True)
class Packed:
    """An encoded array.

    ``data``: its bytes. ``relative``: whether it is the difference to the base, or the values
    themselves. ``error``: (n,) float32, what the rounding has lost, where it is kept.
    """

    data: npt.NDArray[np.uint8]
    relative: bool
    error: Floats | None = None


def pack(
    values: Flat,
    base: Flat,
    kind: Compression,
    noise: Noise | None = None,
    carried: Floats | None = None,
) -> Packed | None:
    """Encode ``values``, (n,) float32 or float64, which were made from ``base``, of the same type.

    ``noise``: gives so many random 16-bit integers, for stochastic rounding. Without it, rounding
    is to the nearest, ``carried``, the error of the last time, is added first, and the error of
    this time is kept.

    Where the values are nearer to zero than to the base (an app may send back a gradient under its
    weights' names), they are encoded themselves. None where they hold NaN, infinity or magnitudes
    beyond 2**126: such an array has to travel as it is.
    """
    alone, apart = _peaks(values, base)
    relative = apart <= alone
    if not (apart if relative else alone) <= _LARGEST:  # so that NaN ends here as well
        return None
    size = len(values)
    out = np.empty(packed_bytes(kind, size), np.uint8)
    error = np.empty(size, np.float32) if noise is None else None
    scratch = _Scratch(size)
    for start in range(0, size, _CHUNK):
        chunk = slice(start, min(size, start + _CHUNK))
        wanted = scratch.difference(values[chunk], base[chunk] if relative else None)
        if carried is not None and noise is None:
            wanted += carried[chunk]
        bits = noise(len(wanted)) if noise is not None else None
        if kind is Compression.BF16:
            scratch.to_bf16(bits, out.view(np.uint16)[chunk])
        else:
            first = 4 * (start // BLOCK)
            scales = out[first : first + 4 * _blocks(len(wanted))].view(np.float32)
            levels = out[4 * _blocks(size) :].view(np.int8)[chunk]
            scratch.to_int8(bits, scales, levels)
        if error is not None:
            np.subtract(wanted, unpack(kind, _reader(out), size, chunk), out=error[chunk])
    return Packed(out, relative, error)


def _peaks(values: Flat, base: Flat) -> tuple[float, float]:
    """The largest magnitudes of the values, and of their difference to the base."""
    alone = apart = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            difference = chunk - base[start : start + _CHUNK]
            # ``np.maximum``, unlike ``max``, does not lose a NaN.
            alone = np.maximum(alone, np.maximum(chunk.max(), -chunk.min()))
            apart = np.maximum(apart, np.maximum(difference.max(), -difference.min()))
    return float(alone), float(apart)


class _Scratch:
    """Room for one chunk's sums, used again for the next; whole blocks, with zeros at the end."""

    def __init__(self, size: int) -> None:
        room = _blocks(min(size, _CHUNK)) * BLOCK
        self._wanted = np.zeros(room, np.float32)
        self._other = np.empty(room, np.float32)
        self._noise = np.zeros(room, np.float32)
        self._length = 0

    def difference(self, values: Flat, base: Flat | None) -> Floats:
        """What is to be encoded, float32."""
        self._length = len(values)
        wanted = self._wanted[: self._length]
        if base is None:
            np.copyto(wanted, values, casting="same_kind")
        else:
            np.subtract(values, base, out=wanted, casting="same_kind")
        self._wanted[self._length :] = 0
        return wanted

    def to_int8(
        self,
        noise: npt.NDArray[np.uint16] | None,
        scales: Floats,
        levels: npt.NDArray[np.int8],
    ) -> None:
        shape = (len(scales), BLOCK)
        whole = slice(0, len(scales) * BLOCK)
        wanted = self._wanted[whole].reshape(shape)
        steps = self._other[whole].reshape(shape)
        np.abs(wanted, out=steps)
        peaks = steps.max(axis=1)
        np.divide(peaks, _LEVELS, out=scales)
        np.maximum(scales, _SMALLEST_SCALE, out=scales)
        np.divide(wanted, scales[:, np.newaxis], out=steps)
        scales[peaks == 0] = 0
        flat = self._other[: self._length]
        if noise is None:
            np.rint(flat, out=flat)
        else:
            uniform = self._noise[: self._length]
            np.multiply(noise, _NOISE_UNIT, out=uniform)
            uniform += _NOISE_LEAST
            # With the quotient's sign, so that both signs are treated alike.
            signs = self._wanted[: self._length].view(np.uint32) & _SIGN
            uniform.view(np.uint32)[:] |= signs
            flat += uniform
        np.copyto(levels, flat, casting="unsafe")  # which cuts off what is behind the point

    def to_bf16(self, noise: npt.NDArray[np.uint16] | None, halves: npt.NDArray[np.uint16]) -> None:
        bits = self._wanted[: self._length].view(np.uint32)
        rounded = self._other[: self._length].view(np.uint32)
        if noise is None:
            # To the nearest, a tie to the even one.
            np.right_shift(bits, 16, out=rounded)
            rounded &= 1
            rounded += np.uint32(0x7FFF)
            rounded += bits
        else:
            # Carries into the upper half as often as the lower half says.
            np.add(bits, noise, out=rounded)
        rounded >>= 16
        np.copyto(halves, rounded, casting="unsafe")


# Gives bytes of the encoding: from an offset on, so many.
Read = Callable[[int, int], memoryview]


def _reader(packed: npt.NDArray[np.uint8]) -> Read:
    return lambda offset, nbytes: packed[offset : offset + nbytes].data


def unpack(kind: Compression, read: Read, size: int, part: slice) -> Floats:
    """The differences again, float32, of the elements ``part`` of ``size``.

    ``part`` begins at a multiple of ``BLOCK``. Rejected where a peer's bytes are no encoding.
    """
    start, count = part.start, part.stop - part.start
    if kind is Compression.BF16:
        halves = np.frombuffer(read(2 * start, 2 * count), np.uint16)
        bits = halves.astype(np.uint32)
        bits <<= 16
        difference: Floats = bits.view(np.float32)
        if count and not np.isfinite(difference).all():
            raise Rejected("a compressed array holds NaN or infinity")
        return difference
    scales = np.frombuffer(read(4 * (start // BLOCK), 4 * _blocks(count)), np.float32)
    # Of NaN, neither is so.
    if not ((scales >= 0) & (scales <= _LARGEST_SCALE)).all():
        raise Rejected("a compressed array has a scale that is no finite number from zero on")
    levels = np.frombuffer(read(4 * _blocks(size) + start, count), np.int8)
    difference = levels.astype(np.float32)
    whole = count // BLOCK
    blocks = difference[: whole * BLOCK].reshape(whole, BLOCK)
    blocks *= scales[:whole, np.newaxis]
    if whole * BLOCK < count:
        difference[whole * BLOCK :] *= scales[whole]
    return difference


def restore(
    kind: Compression,
    read: Read,
    size: int,
    part: slice,
    base: Flat | None,
    dtype: np.dtype[np.generic],
) -> Flat:
    """The elements ``part`` of an array that was packed: ``base``, of these elements, and all."""
    difference = unpack(kind, read, size, part)
    if base is None:
        return difference.astype(dtype, copy=False)
    with np.errstate(over="ignore"):  # what is too large is found by whoever looks at the result
        if dtype == difference.dtype:
            difference += base
            return difference
        restored: Flat = base + difference
        return restored

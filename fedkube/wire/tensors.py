"""What a tensor may be on the wire: an allow-list of element types, checked sizes, a digest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from fedkube.core.errors import Rejected
from fedkube.wire.limits import DIGEST_BYTES, MAX_RANK

# Little-endian on the wire, whatever the machine.
_NUMBERS = "int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
DTYPES: dict[str, np.dtype[np.generic]] = {
    "bool": np.dtype("?"),
    **{name: np.dtype(name).newbyteorder("<") for name in _NUMBERS.split()},
}
# The names again, by type; one in another byte order is not among them. ``dtype.name`` is slow.
NAMES: dict[np.dtype[np.generic], str] = {dtype: name for name, dtype in DTYPES.items()}


def digest(data: bytes | memoryview) -> bytes:
    """BLAKE3 of the bytes, 32 bytes."""
    return blake3(data).digest()


def nbytes(dtype: str, shape: Sequence[int]) -> int:
    """The size of a tensor, or Rejected where its type or shape may not travel."""
    if dtype not in DTYPES:
        raise Rejected(f"element type {dtype!r} may not travel; allowed are {', '.join(DTYPES)}")
    if len(shape) > MAX_RANK:
        raise Rejected(f"a tensor of rank {len(shape)} may not travel; at most {MAX_RANK} can")
    if any(not 0 <= size < 1 << 48 for size in shape):
        raise Rejected(f"shape {list(shape)} has an impossible size")
    # NumPy also refuses an empty tensor whose other sizes overflow.
    if math.prod(size for size in shape if size) * DTYPES[dtype].itemsize >= 1 << 48:
        raise Rejected(f"a tensor of shape {list(shape)} has too many bytes to travel")
    return math.prod(shape) * DTYPES[dtype].itemsize


def view(data: memoryview, dtype: str, shape: Sequence[int]) -> npt.NDArray[np.generic]:
    """The bytes as an array of that type and shape, without a copy; Rejected if they do not fit."""
    if len(data) != nbytes(dtype, shape):
        raise Rejected(
            f"{len(data)} bytes came for a tensor {dtype}{list(shape)} "
            f"of {nbytes(dtype, shape)} bytes"
        )
    return np.frombuffer(data, DTYPES[dtype]).reshape(tuple(shape))


def check_digest(claimed: bytes) -> None:
    """Rejected unless the bytes have the form of a digest."""
    if len(claimed) != DIGEST_BYTES:
        raise Rejected(f"a digest of {len(claimed)} bytes; it must have {DIGEST_BYTES}")

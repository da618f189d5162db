from __future__ import annotations

import numpy as np
import pytest

from fedkube.core.errors import Rejected
from fedkube.wire import tensors


def test_the_digest_is_blake3():
    """The known answer of BLAKE3's own test vectors for no input."""
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert tensors.digest(b"").hex() == empty
    assert tensors.digest(memoryview(b"abc")) == tensors.digest(b"abc") != tensors.digest(b"abd")


def test_these_element_types_may_travel_and_no_others():
    assert set(tensors.DTYPES) == {
        *("bool", "float16", "float32", "float64"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    }
    for name, dtype in tensors.DTYPES.items():
        assert dtype.name == name
        assert dtype == dtype.newbyteorder("<")


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("float32", (), 4),
        ("bool", (3, 2), 6),
        ("float64", (2, 3, 4), 192),
        ("float16", (5, 0, 7), 0),
        ("int8", (1,) * 8, 1),
    ],
)
def test_a_tensors_size(dtype, shape, size):
    assert tensors.nbytes(dtype, shape) == size
    assert tensors.view(memoryview(bytes(size)), dtype, shape).shape == shape


@pytest.mark.parametrize(
    "dtype",
    ["", "object", "O", "complex64", "float128", "<f4", ">f4", "f4", "U5", "S5", "M8[s]", "V8"],
)
def test_another_element_type_is_refused(dtype):
    with pytest.raises(Rejected, match=r"element type .* may not travel; allowed are bool, int8"):
        tensors.nbytes(dtype, (1,))


def test_a_rank_over_eight_is_refused():
    with pytest.raises(Rejected, match="rank 9"):
        tensors.nbytes("int8", (1,) * 9)


@pytest.mark.parametrize("shape", [(-1,), (2, -3), (1 << 48,), (2**64 - 1,), (0, 1 << 48)], ids=str)
def test_an_impossible_size_is_refused(shape):
    with pytest.raises(Rejected, match="impossible size"):
        tensors.nbytes("int8", shape)


@pytest.mark.parametrize("shape", [(1 << 47, 2), (1 << 32, 1 << 32), ((1 << 48) - 1,) * 8], ids=str)
def test_a_product_that_would_overflow_is_refused(shape):
    """(2**32, 2**32) has 2**64 elements: nothing at all, in 64 bits."""
    with pytest.raises(Rejected, match="too many bytes to travel"):
        tensors.nbytes("int8", shape)


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_other_bytes_than_the_shape_has_are_refused(size):
    with pytest.raises(Rejected, match=rf"{size} bytes came for a tensor float32\[2\] of 8 bytes"):
        tensors.view(memoryview(bytes(size)), "float32", (2,))


@pytest.mark.parametrize("shape", [(0, 1 << 47, 1 << 47), ((1 << 47), 0, 1 << 47)], ids=str)
def test_a_shape_that_only_a_zero_keeps_from_overflowing_is_refused_or_empty(shape):
    """NumPy leaves the zero out when it looks whether a shape overflows, and then raises."""
    try:
        made = tensors.view(memoryview(b""), "float32", shape)
    except Rejected:
        return
    assert made.shape == shape


def test_a_view_is_no_copy():
    data = bytearray(np.arange(3, dtype="<i4").tobytes())
    array = tensors.view(memoryview(data), "int32", (3,))
    assert array.tolist() == [0, 1, 2]
    data[0] = 9
    assert array[0] == 9


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_digest_has_32_bytes(size):
    with pytest.raises(Rejected, match=f"a digest of {size} bytes; it must have 32"):
        tensors.check_digest(bytes(size))


def test_32_bytes_may_be_a_digest():
    tensors.check_digest(bytes(32))

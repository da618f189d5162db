"""The laws of compressed updates: how far off they are, right on average, nothing lost for long."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedkube.core.quantisation import (
    BLOCK,
    Compression,
    Packed,
    pack,
    packed_bytes,
    restore,
    unpack,
)

pytestmark = pytest.mark.filterwarnings("error")

KINDS = st.sampled_from([Compression.BF16, Compression.INT8])
SIZES = st.sampled_from([1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 33 * BLOCK + 5])
DTYPES = st.sampled_from([np.dtype("f4"), np.dtype("f8")])
SEEDS = st.integers(0, 2**32)
# Powers of two; the smallest reach into the subnormal numbers, the largest to what is packed.
SCALES = st.integers(-140, 120)


def noise_of(seed):
    rng = np.random.default_rng(seed)
    return lambda count: rng.integers(0, 2**16, count, np.uint16)


def reader(packed: Packed):
    return lambda offset, nbytes: packed.data[offset : offset + nbytes].data


def differences(packed, kind, size):
    return unpack(kind, reader(packed), size, slice(0, size))


def steps(kind, wanted):
    """The size of one step at each element, as float64."""
    wanted = np.abs(wanted.astype(np.float64))
    if kind is Compression.BF16:
        # 8 bits of a float32's 24: the gap above |d|, or of the least exponent.
        exponent = np.floor(np.log2(np.maximum(wanted, 2.0**-126)))
        return 2.0 ** (exponent - 7)
    blocks = [wanted[at : at + BLOCK] for at in range(0, len(wanted), BLOCK)]
    return np.concatenate(
        [np.full(len(each), max(each.max() / 127, 2.0**-126) * (1 + 2**-23)) for each in blocks]
    )


@given(KINDS, DTYPES, SIZES, SCALES, SEEDS, st.booleans())
@example(Compression.INT8, np.dtype("f4"), BLOCK + 1, -140, 0, True)
@example(Compression.BF16, np.dtype("f4"), 7, -140, 1, True)
def test_no_element_is_off_by_more_than_a_step(kind, dtype, size, scale, seed, stochastic):
    rng = np.random.default_rng(seed)
    wanted = (rng.standard_normal(size) * 2.0**scale).astype(dtype)
    base = np.zeros(size, dtype)
    packed = pack(wanted, base, kind, noise_of(seed) if stochastic else None)
    assert packed is not None
    assert packed.data.nbytes == packed_bytes(kind, size)
    off = np.abs(differences(packed, kind, size).astype(np.float64) - wanted)
    allowed = steps(kind, wanted) * (1 if stochastic else 0.5)
    # The division by the scale, and float64's way to float32, are rounded as well.
    slack = np.abs(wanted.astype(np.float64)) * 2.0**-22 + 2.0**-149
    assert (off <= allowed + slack).all()


@given(KINDS, DTYPES, SIZES, SEEDS)
def test_what_comes_back_is_the_base_and_the_difference(kind, dtype, size, seed):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(size).astype(dtype)
    values = base + (1e-3 * rng.standard_normal(size)).astype(dtype)
    packed = pack(values, base, kind)
    assert packed is not None
    assert packed.relative
    whole = restore(kind, reader(packed), size, slice(0, size), base, dtype)
    assert whole.dtype == dtype
    # Four thousandths of the model's difference, and no more than its own last bit.
    assert np.abs(whole - values).max() <= 5e-3 * np.abs(values - base).max() + 2.0**-22
    # Piece by piece it is the same, to the bit.
    pieces = [
        restore(kind, reader(packed), size, part, base[part], dtype)
        for part in (slice(at, min(at + 3 * BLOCK, size)) for at in range(0, size, 3 * BLOCK))
    ]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@given(KINDS, DTYPES, SIZES, st.floats(-(2.0**99), 2.0**99, width=32), SEEDS, st.booleans())
@example(Compression.INT8, np.dtype("f4"), BLOCK, 0.0, 0, True)
@example(Compression.INT8, np.dtype("f4"), 3, -0.0, 0, False)
def test_constants_and_zeros_come_back(kind, dtype, size, value, seed, stochastic):
    """To a float's rounding in int8, whatever the noise; to bf16's in bf16."""
    wanted = np.full(size, value, dtype)
    packed = pack(wanted, np.zeros_like(wanted), kind, noise_of(seed) if stochastic else None)
    assert packed is not None
    back = differences(packed, kind, size)
    if value == 0:
        assert not back.any()
    elif kind is Compression.INT8 and abs(value) > 2.0**-118:
        np.testing.assert_allclose(back, wanted, rtol=2.0**-22)
    else:
        np.testing.assert_allclose(back, wanted, rtol=2.0**-7, atol=2.0**-126)


@pytest.mark.parametrize("kind", [Compression.BF16, Compression.INT8])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e20])
def test_stochastic_rounding_is_right_on_average(kind, scale):
    """The mean of n roundings is off by about a step over the root of n, and not by more."""
    rng = np.random.default_rng(4)
    wanted = (rng.standard_normal(2000) * scale).astype(np.float32)
    base = np.zeros_like(wanted)
    times = 2000
    total = np.zeros(len(wanted))
    noise = noise_of(7)
    for _ in range(times):
        packed = pack(wanted, base, kind, noise)
        assert packed is not None
        total += differences(packed, kind, len(wanted))
    # In standard errors, of an error whose deviation is at most half a step.
    off = (total / times - wanted) / (0.5 * steps(kind, wanted) / math.sqrt(times))
    assert np.abs(off).max() < 6
    # And over all elements together: a bias of a hundredth of a step would be 18 of these.
    assert abs(off.mean()) * math.sqrt(len(wanted)) < 5


@pytest.mark.parametrize("kind", [Compression.BF16, Compression.INT8])
def test_rounding_to_the_nearest_alone_is_not(kind):
    """What the law above tells apart: the same difference is lost every time."""
    wanted = np.full(BLOCK, 1 / 254 / 2 / 4, np.float32)
    wanted[0] = 1.0
    packed = pack(wanted, np.zeros_like(wanted), Compression.INT8)
    assert packed is not None
    assert not differences(packed, Compression.INT8, BLOCK)[1:].any()


@given(KINDS, SIZES, SEEDS)
def test_with_error_feedback_the_sum_of_what_is_sent_keeps_up(kind, size, seed):
    """Sent so far + error kept = wanted so far, so it never lags by more than one rounding."""
    rng = np.random.default_rng(seed)
    base = np.zeros(size, np.float32)
    sent, wanted = np.zeros(size), np.zeros(size)
    carried = None
    peak = 0.0
    for _ in range(20):
        update = rng.standard_normal(size).astype(np.float32)
        packed = pack(update, base, kind, None, carried)
        assert packed is not None
        assert packed.error is not None
        carried = packed.error
        wanted += update
        sent += differences(packed, kind, size)
        peak = max(peak, float(np.abs(update).max()))
        np.testing.assert_allclose(sent + carried, wanted, atol=1e-4)
    assert np.abs(sent - wanted).max() <= 0.02 * peak + 1e-4


@given(KINDS, st.sampled_from([np.nan, np.inf, -np.inf, 2.0**126.5, -3e38]), SIZES, SEEDS)
def test_what_cannot_be_packed_travels_as_it_is(kind, value, size, seed):
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    values[seed % size] = value
    assert pack(values, np.zeros_like(values), kind) is None


@given(KINDS, SIZES, SEEDS, st.booleans())
def test_the_same_noise_gives_the_same_bytes(kind, size, seed, stochastic):
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    noises = [noise_of(seed) if stochastic else None for _ in range(2)]
    one, other = (pack(values, np.zeros_like(values), kind, each) for each in noises)
    assert one is not None
    assert other is not None
    assert one.data.tobytes() == other.data.tobytes()


@given(KINDS, st.integers(0, 5 * BLOCK))
def test_the_size_is_known_beforehand(kind, size):
    values = np.ones(size, np.float32)
    if size:
        packed = pack(values, 0 * values, kind)
        assert packed is not None
        assert packed.data.nbytes == packed_bytes(kind, size)
    assert packed_bytes(kind, size) <= 2 * size + 4

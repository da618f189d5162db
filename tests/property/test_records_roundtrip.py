from __future__ import annotations

import math

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedkube.app.records import Encoder, decode
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, tensors
from fedkube.wire.limits import INLINE_BYTES

NAMES = st.text(max_size=8)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
FLOATS = st.floats()
TEXTS = st.text(max_size=20)
BYTES = st.binary(max_size=20) | st.just(b"x" * (INLINE_BYTES + 1))

METRICS = INT64 | UINT64 | FLOATS | st.lists(INT64, max_size=5) | st.lists(FLOATS, max_size=5)
CONFIGS = (
    METRICS
    | st.booleans()
    | TEXTS
    | BYTES
    | st.lists(st.booleans(), max_size=5)
    | st.lists(TEXTS, max_size=3)
    | st.lists(st.binary(max_size=5), max_size=3)
)
DTYPES = st.sampled_from(
    [
        each
        for name in tensors.DTYPES
        for each in ("<", ">")
        for each in [np.dtype(name).newbyteorder(each)]
    ]
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=8, min_side=0, max_side=3)


@st.composite
def ndarrays(draw):
    values = draw(hnp.arrays(draw(DTYPES), draw(SHAPES)))
    return np.asfortranarray(values) if draw(st.booleans()) and values.ndim > 1 else values


@st.composite
def arrays(draw):
    kind = draw(st.sampled_from(["message", "legacy", "opaque"]))
    if kind == "opaque":
        shape = tuple(draw(st.lists(st.integers(0, 2**60), max_size=10)))
        stype = draw(st.text(max_size=5).filter(lambda name: name != "numpy.ndarray"))
        return Array(draw(TEXTS), shape, stype, draw(st.binary(max_size=50)))
    array = Array(draw(ndarrays()))
    return Array("", (), array.stype, array.data) if kind == "legacy" else array


def array_record(entries):
    record = ArrayRecord()
    for name, array in entries.items():
        record[name] = array
    return record


RECORDS = (
    st.dictionaries(NAMES, METRICS, max_size=4).map(MetricRecord)
    | st.dictionaries(NAMES, CONFIGS, max_size=4).map(ConfigRecord)
    | st.dictionaries(NAMES, arrays(), max_size=4).map(array_record)
)
RECORD_DICTS = st.dictionaries(NAMES, RECORDS, max_size=4).map(RecordDict)


def through(record_dict):
    encoder = Encoder()
    content = pb.Content.FromString(encoder.encode(record_dict).SerializeToString())
    return decode(content, [memoryview(bytes(blob)) for blob in encoder.blobs])


def same_value(left, right):
    if isinstance(left, list):
        same = isinstance(right, list) and len(left) == len(right)
        return same and all(map(same_value, left, right))
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or (left == right and math.copysign(1, left) == math.copysign(1, right))
    return left == right


def same_array(left, right):
    if (left.dtype, tuple(left.shape), left.stype) != (right.dtype, right.shape, right.stype):
        return False
    if left.stype != "numpy.ndarray":
        return left.data == right.data
    sent, came = left.numpy(), right.numpy()
    little = sent.dtype.newbyteorder("<")
    # Bit by bit: NaNs have payloads, and zeros have signs.
    return (came.dtype, came.shape, came.tobytes()) == (
        little,
        sent.shape,
        sent.astype(little).tobytes(),
    )


@given(RECORD_DICTS)
@example(RecordDict({"m": MetricRecord({"nan": math.nan, "inf": [math.inf, -math.inf]})}))
def test_records_come_back_as_they_were_sent(sent):
    came = through(sent)
    assert list(came) == list(sent)
    for name, record in sent.items():
        assert type(came[name]) is type(record)
        assert list(came[name]) == list(record)
        same = same_array if isinstance(record, ArrayRecord) else same_value
        assert all(same(value, came[name][key]) for key, value in record.items())


@given(RECORD_DICTS)
def test_what_came_is_sent_on_as_the_same_bytes(sent):
    first, second = Encoder(), Encoder()
    content = first.encode(sent)
    again = second.encode(decode(content, [memoryview(bytes(blob)) for blob in first.blobs]))
    assert again == content
    assert list(map(bytes, second.blobs)) == list(map(bytes, first.blobs))


@given(RECORD_DICTS)
def test_every_blob_is_referred_to_and_every_reference_has_its_blob(sent):
    encoder = Encoder()
    content = encoder.encode(sent)
    assert {entry.blob for entry in contents.references(content)} == set(range(len(encoder.blobs)))


@given(RECORD_DICTS, st.integers(0, 1000))
def test_renumbering_moves_every_reference(sent, offset):
    content = Encoder().encode(sent)
    before = [entry.blob for entry in contents.references(content)]
    contents.renumber(content, offset.__add__)
    assert [entry.blob for entry in contents.references(content)] == [b + offset for b in before]

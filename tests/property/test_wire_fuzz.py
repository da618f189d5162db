"""Whatever a peer sends, the readers answer with a value or with Rejected; nothing else."""

from __future__ import annotations

import contextlib
from collections import deque

import numpy as np
from google.protobuf.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedkube.app.arrays import from_bytes
from fedkube.app.records import decode
from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames, identity, tensors
from fedkube.wire.limits import CHUNK_BYTES
from fedkube.wire.transfers import Incoming, Progress, check_announced

only_rejected = contextlib.suppress(Rejected)

# The dimensions that have gone wrong in other decoders.
DIMENSIONS = st.sampled_from([0, 1, 2, 3, 2**31, 2**32, 2**47, 2**48, 2**63, 2**64 - 1])
DTYPES = st.sampled_from([*tensors.DTYPES, "", "object", "complex64", ">f4", "float128"])
STYPES = st.sampled_from(["numpy.ndarray", "", "my.own"])
BLOBS = st.lists(st.binary(max_size=64), max_size=3)
SMALL = st.integers(0, 3)


def blobs(items):
    return [memoryview(item) for item in items]


ARRAYS = st.builds(
    pb.Array,
    name=st.text(max_size=3),
    dtype=DTYPES,
    shape=st.lists(DIMENSIONS | SMALL, max_size=9),
    stype=STYPES,
    blob=SMALL,
    opaque=st.booleans(),
    declared_dtype=st.none() | st.text(max_size=3),
    declared_shape=st.lists(DIMENSIONS, max_size=3),
)
VALUES = st.one_of(
    st.builds(pb.Value, key=st.text(max_size=3)),
    st.builds(pb.Value, key=st.text(max_size=3), real=st.floats()),
    st.builds(pb.Value, key=st.text(max_size=3), natural=st.integers(0, 2**64 - 1)),
    st.builds(pb.Value, key=st.text(max_size=3), text=st.text(max_size=5)),
    st.builds(pb.Value, key=st.text(max_size=3), blob=st.integers(0, 2**32 - 1)),
    st.builds(pb.Value, key=st.text(max_size=3), booleans=st.just(pb.Bools(items=[True]))),
    st.builds(pb.Value, key=st.text(max_size=3), texts=st.just(pb.Strings())),
)
RECORDS = st.one_of(
    st.builds(pb.Record, name=st.text(max_size=3)),
    st.builds(pb.Record, arrays=st.builds(pb.Arrays, items=st.lists(ARRAYS, max_size=3))),
    st.builds(pb.Record, metrics=st.builds(pb.Values, items=st.lists(VALUES, max_size=3))),
    st.builds(pb.Record, configs=st.builds(pb.Values, items=st.lists(VALUES, max_size=3))),
)
CONTENTS = st.builds(pb.Content, records=st.lists(RECORDS, max_size=3))


def sink(buffer):
    def put(offset, data):
        buffer[offset : offset + len(data)] = data

    return put


def parsed(kind: type[Message], data: bytes) -> Message | None:
    with only_rejected:
        return frames.read_control(b"\xc1" + data, kind)
    return None


@given(st.binary(max_size=100))
def test_any_bytes_are_a_frame_or_are_refused(data):
    with only_rejected:
        assert frames.is_data(data) == (data[0] == frames.DATA)


@given(st.binary(max_size=100).map(b"\xd1".__add__))
@example(b"\xd1" + bytes(16) + b"\x02\0\0\0xy")
def test_any_data_frame_is_read_or_refused(frame):
    with only_rejected:
        for blob, offset, data in frames.read_data(frame):
            assert 0 < len(data) < len(frame)
            assert 0 <= blob < 2**64
            assert 0 <= offset < 2**64


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([pb.WorkerFrame, pb.ServerFrame, pb.Content]))
def test_any_control_frame_is_parsed_or_refused(data, kind):
    parsed(kind, data)


@given(CONTENTS, st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4), BLOBS)
def test_a_damaged_content_is_decoded_or_refused(content, damage, items):
    data = bytearray(content.SerializeToString())
    for place, byte in damage:
        if data:
            data[place % len(data)] = byte
    came = parsed(pb.Content, bytes(data))
    if came is not None:
        with only_rejected:
            decode(came, blobs(items))


@settings(max_examples=300)
@given(CONTENTS, BLOBS)
@example(
    pb.Content(
        records=[
            pb.Record(
                arrays=pb.Arrays(
                    items=[
                        pb.Array(dtype="float32", shape=[0, 2**47, 2**47], stype="numpy.ndarray")
                    ]
                )
            )
        ]
    ),
    [b""],
)
def test_any_content_is_decoded_or_refused(content, items):
    with only_rejected:
        decode(content, blobs(items))


@settings(max_examples=300)
@given(st.binary(max_size=64), DTYPES, st.lists(DIMENSIONS | SMALL, max_size=9).map(tuple))
@example(b"", "float32", (0, 2**47, 2**47))
def test_a_tensor_is_exactly_its_bytes_or_is_refused(data, dtype, shape):
    with only_rejected:
        array = from_bytes(memoryview(data), dtype, shape, "numpy.ndarray").numpy()
        assert array.shape == shape
        assert array.tobytes() == data
        assert array.dtype == np.dtype(dtype)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.binary(max_size=12)), max_size=12),
    st.binary(min_size=1, max_size=20),
)
def test_no_order_of_data_frames_makes_other_bytes_whole(writes, data):
    incoming = Incoming()
    into = bytearray(len(data))
    announced = pb.Blob(id=1, digest=tensors.digest(data), nbytes=len(data))
    incoming.expect(announced, sink(into))
    with only_rejected:
        for number, offset, part in writes:
            if incoming.write(number, offset, memoryview(part)) is Progress.WHOLE:
                assert into == data


@given(
    st.lists(st.integers(0, 3 * CHUNK_BYTES), min_size=1, max_size=6),
    st.lists(st.integers(0, 8), max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_blobs_are_whole_whatever_is_cut_and_however_often(sizes, cuts):
    """A sender that begins again, after every cut, from what the receiver says it lacks."""
    generator = np.random.default_rng(len(sizes))
    data = {number: generator.bytes(size) for number, size in enumerate(sizes)}
    into = {number: bytearray(size) for number, size in enumerate(sizes)}
    incoming = Incoming()
    for number, each in data.items():
        announced = pb.Blob(id=number, digest=tensors.digest(each), nbytes=len(each))
        incoming.expect(announced, sink(into[number]))
    sent = 0
    for frames_until_cut in [*cuts, 1000]:
        wants = incoming.wants()
        bulk = deque((want.blob, [memoryview(data[want.blob])], want.offset) for want in wants)
        for _ in range(frames_until_cut):
            if not bulk:
                break
            for part in frames.read_data(frames.next_data(bulk)):
                sent += len(part[2])
                assert incoming.write(*part) in (Progress.MORE, Progress.WHOLE)
    assert into == data
    assert incoming.waiting == 0
    assert sent == sum(sizes), "nothing that arrived came twice"


@given(st.lists(st.builds(pb.Blob, digest=st.just(bytes(32)), nbytes=st.integers(1, 2**64 - 1))))
def test_announced_bytes_are_within_the_limit_or_are_refused(announced):
    with only_rejected:
        assert check_announced(announced, 2**40) == sum(blob.nbytes for blob in announced) <= 2**40


@given(st.lists(st.text() | st.text().map("fedkube://".__add__), max_size=3))
def test_any_names_are_one_identity_or_are_refused(names):
    with only_rejected:
        assert identity.parse(names).uri() in names

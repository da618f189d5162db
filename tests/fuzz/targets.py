"""What is fuzzed: each target reads bytes as a peer may send them, and checks what came of it.

A target returns whether anything was accepted, so that a run shows that it got beyond the first
check. ``Rejected`` is caught where the code under test may raise it, and nowhere else.
"""

from __future__ import annotations

import math
import random
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from google.protobuf.message import Message

from fedkube.app.arrays import WireArray
from fedkube.app.records import Encoder, decode
from fedkube.core.errors import Rejected
from fedkube.core.partial_sums import BLOCK, Part, TensorSum
from fedkube.core.quantisation import packed_bytes
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames, packed, tensors
from fedkube.wire.limits import CHUNK_BYTES, CONTROL_BYTES, MAX_RANK
from tests.fuzz.mutation import mutate

Mutation = Callable[[bytes, random.Random], bytes | None]


@dataclass(frozen=True)
class Target:
    """``check``: one input. ``seeds``: inputs to begin with. ``mutate``: made to its format."""

    check: Callable[[bytes], bool]
    seeds: Sequence[bytes]
    mutate: Mutation = lambda data, rng: None


# ---------------------------------------------------------------- frames

# The first byte says how the frame is lengthened, to reach the limits from short inputs.
_DATA_HEAD = struct.Struct("<QQI")
_FULL = 1 + _DATA_HEAD.size + CHUNK_BYTES
_LENGTHENED = {
    252: _FULL,
    253: _FULL + 1,
    254: CONTROL_BYTES + 1,
    255: CONTROL_BYTES + 2,
}
# In protobuf, two of them are a field of no known name: such a frame can still be parsed.
_PADDING = b"x"


def check_frame(data: bytes) -> bool:
    """A frame of either side, as a session reads it."""
    if not data:
        return False
    frame = data[1:].ljust(_LENGTHENED.get(data[0], 0), _PADDING)
    try:
        is_data = frames.is_data(frame)
    except Rejected:
        return False
    assert is_data == (frame[0] == frames.DATA)
    if is_data:
        return _check_data(frame)
    # As both, since a frame does not say whose it is.
    accepted = [_check_control(frame, kind) for kind in (pb.WorkerFrame, pb.ServerFrame)]
    return any(accepted)


def _check_data(frame: bytes) -> bool:
    try:
        parts = list(frames.read_data(frame))
    except Rejected:
        return False
    assert parts
    assert sum(len(part) for _, _, part in parts) <= CHUNK_BYTES
    laid_out = [_DATA_HEAD.pack(blob, at, len(part)) + part for blob, at, part in parts]
    assert frame[1:] == b"".join(laid_out)
    if all(at < 4096 for _, at, _ in parts):  # what lies before has to be made to write it again
        bulk: deque[frames.Bulk] = deque(
            (blob, [memoryview(bytes(at)), part], at) for blob, at, part in parts
        )
        assert frames.next_data(bulk) == frame
        assert not bulk
    return True


def _check_control(frame: bytes, kind: type[Message]) -> bool:
    try:
        message = frames.read_control(frame, kind)
    except Rejected:
        return False
    assert len(frame) <= CONTROL_BYTES + 1
    if len(frame) > CHUNK_BYTES:  # what is written here is no memory that reading takes
        return True
    again = frames.read_control(frames.control(message), kind)
    # As bytes: a NaN is equal to nothing.
    assert again.SerializePartialToString() == message.SerializePartialToString()
    return True


def _mutate_frame(data: bytes, rng: random.Random) -> bytes | None:
    if len(data) < 2 or data[1] != frames.CONTROL:
        return None
    body = mutate(data[2:], rng.choice((pb.WorkerFrame, pb.ServerFrame)), rng)
    # Long frames take milliseconds each: few of them are enough.
    how = data[:1] if rng.random() < 0.02 else b"\x00"
    return None if body is None else how + data[1:2] + body


def _frame_seeds() -> list[bytes]:
    blob = pb.Blob(id=1, digest=bytes(32), nbytes=8)
    content = _content()
    outcome = pb.Outcome(call=1, content=content, state=content, ttl=1.5)
    failed = pb.Outcome(call=2, failure=pb.Failure(code=pb.Failure.CRASHED, reason="gone"))
    messages: list[Message] = [
        pb.WorkerFrame(hello=pb.Hello(protocol=2, worker="w", held=[1, 2])),
        pb.WorkerFrame(ready=pb.Ready()),
        pb.WorkerFrame(need=pb.Need(of=1, wants=[pb.Want(blob=1, offset=7)])),
        pb.WorkerFrame(reply=pb.Reply(upload=1, outcomes=[outcome, failed], blobs=[blob])),
        pb.WorkerFrame(sum=pb.Sum(calls=[1], tensors=[pb.SumTensor(blocks=[0], bins=[-1])])),
        pb.ServerFrame(welcome=pb.Welcome(run="r", run_config=pb.Values())),
        pb.ServerFrame(
            task=pb.Task(calls=[pb.Call(id=1, state=content)], content=content, blobs=[blob])
        ),
        pb.ServerFrame(settled=pb.Settled(refused=[pb.Refusal(call=1, reason="r")])),
    ]
    controls = [frames.control(message) for message in messages]
    pieces = [memoryview(b"abc"), memoryview(b"d")]
    several: deque[frames.Bulk] = deque((blob, pieces, blob) for blob in range(3))
    # Announced as the longest that a frame may be, and as one byte more: lengthened below.
    longest = [
        bytes([frames.DATA]) + _DATA_HEAD.pack(1, 0, CHUNK_BYTES + more) + b"a" for more in (0, 1)
    ]
    plain = [*controls, frames.next_data(several), *longest]
    # Of either parity, so that each limit is reached with whole fields.
    headings = [frames.control(pb.WorkerFrame()), controls[1], *longest]
    headings += [headings[0] + b"\x78\x80\x00"]
    lengthened = [bytes([how]) + each for how in _LENGTHENED for each in headings]
    return [b"", b"\x00", *(b"\x00" + each for each in plain), *lengthened]


# ---------------------------------------------------------------- records

# A blob costs an input one byte, whatever its size. Hundreds of entries may refer to the largest:
# what copied it for each of them would take more memory than is allowed.
_ZEROS = memoryview(bytes(1024 * 1024))
_SMALL = 32 * 1024
_SIZES = (0, 1, 2, 4, 8, 16, 24, 96, _SMALL, len(_ZEROS))
_MAX_FUZZED_BLOBS = 4


def check_records(data: bytes) -> bool:
    """A content and its blobs, as they become Flower's records."""
    if not data:
        return False
    count = data[0] % (_MAX_FUZZED_BLOBS + 1)
    sizes, body = data[1 : 1 + count], data[1 + count :]
    blobs = [_ZEROS[: _SIZES[each % len(_SIZES)]] for each in sizes]
    try:
        content = frames.read_control(bytes([frames.CONTROL]) + body, pb.Content)
        records = decode(content, blobs)
    except Rejected:
        return False
    assert list(records) == [entry.name for entry in content.records]
    if any(len(blob) > _SMALL for blob in blobs):  # written anew, each entry has its own
        return bool(records)
    # What was accepted can be sent on, and comes back the same.
    encoder = Encoder()
    sent = pb.Content.FromString(encoder.encode(records).SerializeToString())
    again = decode(sent, encoder.blobs)
    assert list(map(_described, again.values())) == list(map(_described, records.values()))
    return bool(records)


def _described(record: object) -> object:
    """All that a record holds, as something that can be compared: NaN is equal to nothing."""
    if isinstance(record, ArrayRecord):
        return [(name, *_array(array)) for name, array in record.items()]
    assert isinstance(record, MetricRecord | ConfigRecord)
    return type(record), [(key, repr(value)) for key, value in record.items()]


def _array(array: Array) -> tuple[object, ...]:
    same = (array.dtype, tuple(array.shape), array.stype)
    if isinstance(array, WireArray) and array.elements is not None:
        # Not ``data``, which makes an .npy file: some shapes have none, and none is asked for.
        return (*same, array.elements.dtype, array.elements.shape, array.elements.tobytes())
    return (*same, array.data)


def _content() -> pb.Content:
    arrays = pb.Arrays(
        items=[
            pb.Array(name="w", dtype="float32", shape=[2, 3], stype="numpy.ndarray", blob=0),
            pb.Array(name="s", dtype="int64", stype="numpy.ndarray", blob=1, declared_dtype=""),
            pb.Array(name="o", dtype="any", shape=[2**63], stype="own", blob=1, opaque=True),
        ]
    )
    values = pb.Values(
        items=[
            pb.Value(key="real", real=0.5),
            pb.Value(key="integer", integer=-3),
            pb.Value(key="natural", natural=2**63),
            pb.Value(key="reals", reals=pb.Doubles(items=[0.0, math.nan])),
            pb.Value(key="integers", integers=pb.Ints(items=[1, -1])),
        ]
    )
    configs = pb.Values(
        items=[
            pb.Value(key="boolean", boolean=True),
            pb.Value(key="text", text="ä"),
            pb.Value(key="data", data=b"\x00"),
            pb.Value(key="blob", blob=1),
            pb.Value(key="booleans", booleans=pb.Bools(items=[False])),
            pb.Value(key="texts", texts=pb.Strings(items=["", "b"])),
            pb.Value(key="datas", datas=pb.ByteStrings(items=[b"", b"b"])),
        ]
    )
    return pb.Content(
        records=[
            pb.Record(name="a", arrays=arrays),
            pb.Record(name="m", metrics=values),
            pb.Record(name="c", configs=configs),
        ]
    )


def _mutate_records(data: bytes, rng: random.Random) -> bytes | None:
    head = 1 + data[0] % (_MAX_FUZZED_BLOBS + 1) if data else 0
    body = mutate(data[head:], pb.Content, rng)
    return None if body is None else data[:head] + body


def _records_seeds() -> list[bytes]:
    # 24 bytes for the (2, 3) float32, and 8 for the int64.
    blobs = bytes([2, _SIZES.index(24), _SIZES.index(8)])
    whole = _content()
    single = [pb.Content(records=[record]) for record in whole.records]
    return [b"", b"\x00", *(blobs + each.SerializeToString() for each in (whole, *single))]


# ---------------------------------------------------------------- tensors

_TENSOR = struct.Struct("<BBB")


def check_tensor(data: bytes) -> bool:
    """A tensor's type, shape and bytes: ``nbytes`` and ``view``."""
    if len(data) < _TENSOR.size:
        return False
    kind, rank, fit = _TENSOR.unpack_from(data)
    names = [*tensors.DTYPES, *_OTHER_TYPES]
    dtype = names[kind % len(names)]
    rank %= MAX_RANK + 2
    rest = data[_TENSOR.size :]
    shape = [_dimension(each) for each in rest[:rank]]
    payload = rest[rank:]
    try:
        size = tensors.nbytes(dtype, shape)
    except Rejected:
        return False
    assert dtype in tensors.DTYPES
    assert len(shape) <= MAX_RANK
    assert size == math.prod(shape) * np.dtype(dtype).itemsize < 2**48
    if fit % 2 and size <= 4096:
        payload = payload[:size].ljust(size, b"\x7f")
    try:
        array = tensors.view(memoryview(payload), dtype, shape)
    except Rejected:
        assert len(payload) != size
        return False
    assert len(payload) == size
    assert (array.dtype, array.shape) == (tensors.DTYPES[dtype], tuple(shape))
    assert array.tobytes() == payload
    assert not array.flags.owndata, "a view copies nothing"
    return True


_OTHER_TYPES = ("", "object", "O", "complex64", "float128", ">f4", "<f4", "U5", "V8", "M8[s]")


def _dimension(byte: int) -> int:
    """Small sizes, and those around the powers of two at which products overflow."""
    return byte if byte < 128 else (1 << (byte - 128) // 2) - byte % 2


def _tensor_seeds() -> list[bytes]:
    def seed(dtype: str, *dimensions: int, payload: bytes = b"") -> bytes:
        kind = list(tensors.DTYPES).index(dtype)
        return _TENSOR.pack(kind, len(dimensions), not payload) + bytes(dimensions) + payload

    return [
        seed("float32", 2, 3),
        seed("float32", 2, payload=bytes(8)),
        seed("bool"),
        seed("int8", 0, 128 + 94, 128 + 94),
        seed("float64", 1, 1, 1, 1, 1, 1, 1, 1),
        seed("uint16", 128 + 64, 128 + 64),
    ]


# ---------------------------------------------------------------- partial sums

_SUM = struct.Struct("<BBB")
_PART = struct.Struct("<ihHq")
_SUM_SIZES = (0, 1, 2, 7, 100, BLOCK - 1, BLOCK, BLOCK + 1)
_MAX_PARTS = 24  # of half a MiB at most


def check_sum(data: bytes) -> bool:
    """Parts of partial sums, as a worker may send them."""
    if len(data) < _SUM.size:
        return False
    kind, size, bits = _SUM.unpack_from(data)
    dtype = list(tensors.DTYPES.values())[kind % len(tensors.DTYPES)]
    sums = TensorSum(dtype, _SUM_SIZES[size % len(_SUM_SIZES)], 1 + bits % 50)
    body = data[_SUM.size : _SUM.size + _MAX_PARTS * _PART.size]
    merged: dict[tuple[int, int], tuple[int, int]] = {}
    for block, number, length, fill in _PART.iter_unpack(body[: len(body) // _PART.size * 16]):
        values = np.full(_length(sums, block, length), fill, np.int64)
        values.setflags(write=False)
        before = _held(sums)
        try:
            sums.merge(Part(block, number, values))
        except Rejected:
            assert _held(sums) == before
            continue
        assert _held(sums) - before in (0, values.nbytes), "no more than came"
        count, total = merged.get((block, number), (values.size, 0))
        assert count == values.size
        merged[block, number] = (count, total + fill)
    _compare(sums, merged)
    return bool(merged)


def _length(sums: TensorSum, block: int, length: int) -> int:
    """Mostly the right one, which a fuzzer would seldom hit; a whole block where there is none."""
    if length < 2**15:
        return length
    known = 0 <= block < -(-sums.size // BLOCK)
    return sums.levels * (sums.length(block) if known else BLOCK)


def _compare(sums: TensorSum, merged: dict[tuple[int, int], tuple[int, int]]) -> None:
    parts = list(sums.parts())
    assert [(part.block, part.bin) for part in parts] == sorted(merged)
    for part in parts:
        count, total = merged[part.block, part.bin]
        assert part.values.dtype == np.int64
        assert part.values.size == count
        # Made-up integers may wrap; what was checked against ``bits_for`` does not.
        wrapped = (total + 2**63) % 2**64 - 2**63
        assert count == 0 or part.values.min() == part.values.max() == wrapped
    mean = sums.take_mean(1.0)
    assert mean.shape == (sums.size,)
    assert _held(sums) == 0
    assert not _nans(mean)


def _held(sums: TensorSum) -> int:
    """Bytes of memory that a sum takes."""
    return sum(part.values.nbytes for part in sums.parts())


def _nans(mean: npt.NDArray[np.generic]) -> bool:
    return bool(np.isnan(mean.astype(np.float64)).any())


def _sum_seeds() -> list[bytes]:
    def seed(dtype: str, size: int, *parts: tuple[int, int, int, int]) -> bytes:
        kind = list(tensors.DTYPES).index(dtype)
        head = _SUM.pack(kind, _SUM_SIZES.index(size), 49)
        return head + b"".join(_PART.pack(*part) for part in parts)

    right = 2**15
    return [
        seed("float32", 2, (0, 1, right, 2**42), (0, 1, right, -1), (0, 2, right, 5)),
        seed("float64", 7, (0, -96, right, 2**62), (0, 120, right, 2**62)),
        seed("int32", BLOCK + 1, (1, 0, right, 1), (0, 0, right, 1), (2, 0, right, 1)),
        seed("bool", 0, (0, 0, 0, 0)),
        seed("float16", 1, (0, 5, 1, 1), (0, 5, 2, 1), (-1, 121, 1, 1), (0, -97, 1, 1)),
    ]


# ---------------------------------------------------------------- compressed arrays

# What was sent, and blobs of the sizes that its arrays have in either encoding.
_SENT_SIZES = {"w": 7, "d": 1025, "n": 1, "e": 0}
_PACKED_SIZES = sorted(
    {packed_bytes(kind, size) for kind in packed.KINDS.values() for size in _SENT_SIZES.values()}
)


def check_packed(data: bytes) -> bool:
    """A reply's compressed arrays: their description, and then their bytes, all of them alike."""
    if not data:
        return False
    kind = (pb.COMPRESSION_BF16, pb.COMPRESSION_INT8)[data[0] % 2]
    try:
        outcome = frames.read_control(bytes([frames.CONTROL]) + data[1:], pb.Outcome)
    except Rejected:
        return False
    task = pb.Task(content=_sent(), compression=kind)
    sent = packed.arrays(task.content)
    blobs = [pb.Blob(nbytes=size) for size in _PACKED_SIZES]
    reason = packed.refusal(task, outcome, blobs)
    if reason is not None:
        assert len(reason) < 1000 + len(data)
        return False
    items = list(packed.packed(outcome.content))
    for item in items:
        size = math.prod(item.shape)
        assert packed_bytes(packed.kind_of(item), size) == _PACKED_SIZES[item.blob]
        base = packed.base_of(item, sent)
        zeros = None if base is None else memoryview(bytes(tensors.nbytes(base.dtype, base.shape)))
        payload = memoryview(data[:1] * _PACKED_SIZES[item.blob])
        try:
            whole = packed.restored(item, payload, zeros)
        except Rejected:
            continue
        assert len(whole) == tensors.nbytes(item.dtype, item.shape)
        assert np.isfinite(np.frombuffer(whole, tensors.DTYPES[item.dtype])).all()
    return bool(items)


def _sent() -> pb.Content:
    content = pb.Content()
    for name, size in _SENT_SIZES.items():
        dtype = "float64" if name == "d" else "float32"
        content.records.add(name="a").arrays.items.add(name=name, dtype=dtype, shape=[size])
    return content


def _mutate_packed(data: bytes, rng: random.Random) -> bytes | None:
    body = mutate(data[1:], pb.Outcome, rng)
    return None if body is None else data[:1] + body


def _packed_seeds() -> list[bytes]:
    seeds = [b"", b"\x00"]
    for first, kind in enumerate(packed.KINDS.values()):
        for relative in (True, False):
            outcome = pb.Outcome(call=1, content=_sent())
            for place, item in enumerate(packed.arrays(outcome.content)):
                item.compression = packed.NUMBERS[kind]
                item.blob = _PACKED_SIZES.index(packed_bytes(kind, item.shape[0]))
                if relative:
                    item.base = place
            whole = outcome.SerializeToString()
            # A small number in every byte, and one that makes a NaN or a scale below zero.
            seeds += [bytes([fill + first]) + whole for fill in (0, 60, 254)]
    return seeds


# ---------------------------------------------------------------- all

TARGETS: dict[str, Target] = {
    "frames": Target(check_frame, _frame_seeds(), _mutate_frame),
    "records": Target(check_records, _records_seeds(), _mutate_records),
    "tensors": Target(check_tensor, _tensor_seeds()),
    "sums": Target(check_sum, _sum_seeds()),
    "packed": Target(check_packed, _packed_seeds(), _mutate_packed),
}

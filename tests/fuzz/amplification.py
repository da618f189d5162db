"""Inputs that are made to take much memory, which no fuzzer of short inputs comes upon.

``python -m tests.fuzz.amplification CASE`` prints by how many bytes reading one makes the process
grow, beside what was received.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from fedkube.app.records import decode
from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import CONTROL_BYTES
from tests.fuzz.memory import MIB, Watch


def empty_entries() -> Callable[[], object]:
    """A control frame, as large as may be, of arrays that take two bytes each."""
    outcome = pb.Outcome.DESCRIPTOR.fields_by_name
    path = [
        pb.WorkerFrame.DESCRIPTOR.fields_by_name["reply"],
        pb.Reply.DESCRIPTOR.fields_by_name["outcomes"],
        outcome["content"],
        pb.Content.DESCRIPTOR.fields_by_name["records"],
        pb.Record.DESCRIPTOR.fields_by_name["arrays"],
    ]
    body = bytes([pb.Arrays.DESCRIPTOR.fields_by_name["items"].number << 3 | 2, 0])
    body *= (CONTROL_BYTES - 64) // len(body)
    for field in reversed(path):
        body = bytes([field.number << 3 | 2]) + _varint(len(body)) + body
    frame = bytes([frames.CONTROL]) + body
    return lambda: frames.read_control(frame, pb.WorkerFrame)


def _varint(number: int) -> bytes:
    head = bytearray()
    while number > 127:
        head.append(number & 127 | 128)
        number >>= 7
    return bytes([*head, number])


def one_blob_many_times() -> Callable[[], object]:
    """A blob of 1 MiB that many arrays of the app's own encoding refer to."""
    items = [pb.Array(name=str(number), stype="own", opaque=True) for number in range(500)]
    content = pb.Content(records=[pb.Record(name="a", arrays=pb.Arrays(items=items))])
    blob = memoryview(bytes(MIB))
    return lambda: decode(content, [blob])


def one_blob_as_many_values() -> Callable[[], object]:
    """The same with values of a config."""
    items = [pb.Value(key=str(number), blob=0) for number in range(500)]
    content = pb.Content(records=[pb.Record(name="c", configs=pb.Values(items=items))])
    blob = memoryview(bytes(MIB))
    return lambda: decode(content, [blob])


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "empty-entries": empty_entries,
    "one-blob-many-times": one_blob_many_times,
    "one-blob-as-many-values": one_blob_as_many_values,
}


def main() -> None:
    """Read one and print the growth in bytes."""
    read = CASES[sys.argv[1]]()
    watch = Watch()
    # Without its limit on what may be asked for: how much it would take is what is measured.
    watch.lift()
    kept = None
    try:
        kept = read()
    except Rejected:
        pass
    print(watch.growth)
    del kept


if __name__ == "__main__":
    main()

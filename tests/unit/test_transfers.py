from __future__ import annotations

import pytest

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import transfers
from fedkube.wire.limits import MAX_CORRUPT
from fedkube.wire.tensors import digest
from fedkube.wire.transfers import Incoming, Progress, check_announced

BYTES = b"0123456789"


def blob(number=1, data=BYTES, **fields):
    return pb.Blob(**{"id": number, "digest": digest(data), "nbytes": len(data), **fields})


def write(incoming, number, offset, data):
    return incoming.write(number, offset, memoryview(data))


def sink(buffer):
    def put(offset, data):
        buffer[offset : offset + len(data)] = data

    return put


@pytest.fixture
def incoming(monkeypatch):
    monkeypatch.setattr(transfers, "STEP_BYTES", 1)  # ten bytes can be cut anywhere
    return Incoming()


@pytest.fixture
def into(incoming):
    """Where one blob of ten bytes is expected."""
    buffer = bytearray(10)
    assert not incoming.expect(blob(), sink(buffer))
    return buffer


def test_a_blob_comes_in_pieces(incoming, into):
    assert write(incoming, 1, 0, BYTES[:4]) is Progress.MORE
    assert write(incoming, 1, 4, BYTES[4:9]) is Progress.MORE
    assert incoming.waiting == 1
    assert write(incoming, 1, 9, BYTES[9:]) is Progress.WHOLE
    assert incoming.waiting == 0
    assert into == BYTES


def test_blobs_may_come_side_by_side(incoming, into):
    other = bytearray(10)
    incoming.expect(blob(2, BYTES[::-1]), sink(other))
    write(incoming, 1, 0, BYTES[:5])
    assert write(incoming, 2, 0, BYTES[::-1]) is Progress.WHOLE
    assert write(incoming, 1, 5, BYTES[5:]) is Progress.WHOLE
    assert (into, other) == (BYTES, BYTES[::-1])


def test_after_a_cut_it_is_known_from_where_on_bytes_are_missing(incoming, into):
    incoming.expect(blob(2), sink(bytearray(10)))
    write(incoming, 1, 0, BYTES[:4])
    assert incoming.wants() == [pb.Want(blob=1, offset=4), pb.Want(blob=2, offset=0)]
    write(incoming, 1, 4, BYTES[4:])
    assert incoming.wants() == [pb.Want(blob=2, offset=0)]
    assert into == BYTES


@pytest.mark.parametrize("offset", [5, 3, 0, 2**63], ids=["gap", "overlap", "again", "far"])
def test_bytes_that_are_not_the_next_are_refused(incoming, into, offset):
    write(incoming, 1, 0, BYTES[:4])
    with pytest.raises(Rejected, match=f"bytes from {offset} on came, and 4 was next"):
        write(incoming, 1, offset, BYTES[4:6])


def test_more_bytes_than_were_announced_are_refused(incoming, into):
    with pytest.raises(Rejected, match="more bytes came than were announced"):
        write(incoming, 1, 0, BYTES + b"x")
    assert into == bytes(10), "nothing is written beyond the limit, nor before it"


def test_a_cut_within_a_block_of_elements_is_refused(incoming, into, monkeypatch):
    monkeypatch.setattr(transfers, "STEP_BYTES", 4)
    assert write(incoming, 1, 0, BYTES[:8]) is Progress.MORE
    with pytest.raises(Rejected, match="a chunk of 1 bytes, with 2 to come"):
        write(incoming, 1, 8, BYTES[8:9])
    assert write(incoming, 1, 8, BYTES[8:]) is Progress.WHOLE


def test_a_blob_with_a_wrong_digest_is_expected_again_and_that_one_alone(incoming, into):
    other = bytearray(10)
    incoming.expect(blob(2), sink(other))
    write(incoming, 2, 0, BYTES[:4])
    assert write(incoming, 1, 0, BYTES[::-1]) is Progress.CORRUPT
    assert incoming.wants() == [pb.Want(blob=1, offset=0), pb.Want(blob=2, offset=4)]
    assert write(incoming, 1, 0, BYTES) is Progress.WHOLE
    assert into == BYTES


def test_a_sender_that_is_wrong_again_and_again_is_given_up(incoming, into):
    for _ in range(MAX_CORRUPT - 1):
        assert write(incoming, 1, 0, BYTES[::-1]) is Progress.CORRUPT
    with pytest.raises(Rejected, match="never with the digest that was announced"):
        write(incoming, 1, 0, BYTES[::-1])


def test_a_blob_that_was_announced_twice_is_refused(incoming, into):
    with pytest.raises(Rejected, match="blob 1 was announced twice"):
        incoming.expect(blob(), sink(bytearray(10)))


def test_bytes_of_a_blob_that_was_forgotten_are_dropped(incoming, into):
    write(incoming, 1, 0, BYTES[:4])
    incoming.forget([1, 99])
    assert incoming.waiting == 0
    assert write(incoming, 1, 4, BYTES[4:]) is Progress.STRAY
    assert into[4:] == bytes(6)


def test_a_forgotten_blob_may_be_announced_again_and_begins_anew(incoming, into):
    write(incoming, 1, 0, BYTES[:4])
    incoming.forget([1])
    incoming.expect(blob(), sink(into))
    assert write(incoming, 1, 0, BYTES) is Progress.WHOLE


def test_a_whole_blob_may_be_announced_again(incoming, into):
    write(incoming, 1, 0, BYTES)
    assert not incoming.expect(blob(), sink(bytearray(10)))


def test_bytes_of_a_blob_that_nobody_announced_are_dropped(incoming):
    assert write(incoming, 5, 0, BYTES) is Progress.STRAY


def test_an_empty_blob_is_complete_at_once(incoming):
    assert incoming.expect(blob(data=b""), sink(bytearray()))
    assert incoming.waiting == 0


def test_an_empty_blob_needs_its_digest_too(incoming):
    with pytest.raises(Rejected, match="digest"):
        check_announced([blob(data=b"", digest=bytes(32))], limit=100)


def test_a_digest_that_only_begins_alike_is_another(incoming):
    incoming.expect(blob(digest=digest(BYTES)[:16]), sink(bytearray(10)))
    assert write(incoming, 1, 0, BYTES) is Progress.CORRUPT


# ------------------------------------------------------------- before anything is allocated


def test_what_is_announced_is_summed():
    assert check_announced([blob(), blob(2)], limit=20) == 20
    assert check_announced([], limit=0) == 0


def test_a_byte_over_the_limit_is_refused():
    with pytest.raises(Rejected, match="a message of more than 19 bytes"):
        check_announced([blob(), blob(2)], limit=19)


def test_a_size_that_would_overflow_is_refused():
    huge = [blob(nbytes=2**64 - 1), blob(nbytes=1)]
    with pytest.raises(Rejected, match="more than"):
        check_announced(huge, limit=2**40)


@pytest.mark.parametrize("size", [0, 31, 64])
def test_a_digest_of_another_length_is_refused(size):
    with pytest.raises(Rejected, match=f"a digest of {size} bytes"):
        check_announced([blob(digest=bytes(size))], limit=100)


def test_too_many_blobs_are_refused(monkeypatch):
    monkeypatch.setattr(transfers, "MAX_BLOBS", 2)
    assert check_announced([blob(1), blob(2)], limit=100) == 20
    with pytest.raises(Rejected, match="more than 2 blobs"):
        check_announced([blob(1), blob(2), blob(3)], limit=100)

from __future__ import annotations

import pytest
from fedkube_server import states
from fedkube_server.blobs import BlobStore
from fedkube_server.calls import Answer

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb

DATA = [b"update", b"kept a", b"kept b"]


def answer(*references):
    """A reply of three blobs whose state refers to some of them."""
    items = [pb.Array(name=f"s{i}", blob=blob) for i, blob in enumerate(references)]
    return Answer(
        pb.Outcome(state=pb.Content(records=[pb.Record(name="r", arrays=pb.Arrays(items=items))])),
        [memoryview(each) for each in DATA],
    )


def numbers(content):
    return [item.blob for record in content.records for item in record.arrays.items]


def test_a_state_keeps_the_blobs_that_it_refers_to_and_no_others():
    kept = states.keep(answer(2, 1, 2), BlobStore())
    assert [bytes(blob.data) for blob in kept.blobs] == [b"kept b", b"kept a"]
    assert numbers(kept.content) == [0, 1, 0]


def test_the_reply_is_left_as_it_was():
    came = answer(2, 1)
    states.keep(came, BlobStore())
    assert numbers(came.outcome.state) == [2, 1]


def test_a_state_shares_its_blobs_with_the_store():
    store = BlobStore()
    known = store.put(memoryview(b"kept a"))
    assert states.keep(answer(1), store).blobs == [known]


def test_a_state_that_refers_to_what_did_not_come_is_refused():
    with pytest.raises(Rejected, match="state refers to blob 3, which did not come"):
        states.keep(answer(3), BlobStore())


def test_a_state_does_not_look_into_what_the_reply_landed_in():
    """Which is used for other replies afterwards."""
    room = bytearray(b"kept a")
    came = answer(1)
    came.blobs[1] = memoryview(room)
    kept = states.keep(came, BlobStore())
    room[:] = b"others"
    assert bytes(kept.blobs[0].data) == b"kept a"


def test_no_state_is_a_state():
    kept = states.keep(answer(), BlobStore())
    assert kept.blobs == []

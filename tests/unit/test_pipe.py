from __future__ import annotations

import os
import socket
import threading

import pytest
from fedkube_client import pipe
from fedkube_client.pipe import Closed, receive, send
from fedkube_client.segments import Segment

from fedkube.proto.v1 import executor_pb2 as xpb


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


def sending(*arguments):
    thread = threading.Thread(target=send, args=arguments, daemon=True)
    thread.start()
    return thread


def test_messages_come_in_order(ends):
    for text in ("one", "", "three"):
        send(ends[0], xpb.Loaded(traceback=text))
    assert [receive(ends[1], xpb.Loaded)[0].traceback for _ in range(3)] == ["one", "", "three"]


def test_a_message_larger_than_the_sockets_buffer(ends):
    text = "x" * 3_000_000
    thread = sending(ends[0], xpb.Loaded(traceback=text))
    message, descriptors = receive(ends[1], xpb.Loaded)
    thread.join()
    assert message.traceback == text
    assert descriptors == []


def test_descriptors_come_with_their_message_and_in_order(ends):
    segments = [Segment.create(8) for _ in range(3)]
    for number, segment in enumerate(segments):
        segment.view[0] = number
    send(ends[0], xpb.Loaded(traceback="first"))
    send(ends[0], xpb.Loaded(), [each.descriptor for each in segments])
    assert receive(ends[1], xpb.Loaded)[1] == []
    came = [Segment(descriptor, 8) for descriptor in receive(ends[1], xpb.Loaded)[1]]
    assert [each.view[0] for each in came] == [0, 1, 2]
    for segment in [*segments, *came]:
        segment.close()


def test_as_many_descriptors_as_are_allowed(ends):
    with open(os.devnull) as file:
        thread = sending(ends[0], xpb.Loaded(), [file.fileno()] * pipe.MAX_DESCRIPTORS)
        descriptors = receive(ends[1], xpb.Loaded)[1]
        thread.join()
    assert len(set(descriptors)) == pipe.MAX_DESCRIPTORS
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_closed_end_is_said_to_be_closed(ends):
    ends[0].close()
    with pytest.raises(Closed):
        receive(ends[1], xpb.Loaded)
    with pytest.raises(Closed):
        send(ends[1], xpb.Loaded(traceback="x"))


@pytest.mark.parametrize("sent", [1, 5, 6, 8])
def test_an_end_that_closes_within_a_message_is_said_to_be_closed(ends, sent):
    whole = pipe._HEAD.pack(10, 0) + bytes(10)
    ends[0].sendall(whole[:sent])
    ends[0].close()
    with pytest.raises(Closed):
        receive(ends[1], xpb.Loaded)

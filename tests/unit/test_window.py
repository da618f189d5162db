from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.limits import CHUNK_BYTES, NEAR_S, RECEIVED_BYTES
from fedkube.wire.window import Window


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def window(clock):
    return Window(clock)


def fill(window) -> int:
    """Send chunks for as long as they may go; how many went."""
    count = 0
    while window.is_open:
        window.sent(CHUNK_BYTES)
        count += 1
    return count


def probe(window, clock, seconds):
    number = window.probe().number
    clock.now += seconds
    window.received(pb.Received(probe=number))


def test_nobody_knows_how_far_the_server_is_so_one_chunk_goes(window):
    assert fill(window) == 1


def test_a_near_server_gets_the_next_chunk_when_it_has_the_one_before(window, clock):
    probe(window, clock, NEAR_S / 2)
    for count in range(1, 20):
        assert fill(window) == 1
        clock.now += 0.1
        window.received(pb.Received(bytes=count * CHUNK_BYTES, probe=1))


def test_a_server_that_was_busy_for_a_moment_is_near_all_the_same(window, clock):
    probe(window, clock, 0.3)
    sent = fill(window)
    clock.now += NEAR_S / 2
    window.received(pb.Received(bytes=sent * CHUNK_BYTES, probe=1))
    assert fill(window) == 1


def test_no_second_question_while_the_first_is_on_its_way(window):
    first = window.probe()
    assert window.probe() is None
    window.received(pb.Received(probe=first.number))
    assert window.probe().number == first.number + 1


def test_what_was_said_before_the_question_came_is_no_answer_to_it(window, clock):
    """Or a server on the other side of the earth would be taken for a near one."""
    fill(window)
    clock.now += 0.2
    window.probe()
    clock.now += NEAR_S / 10
    window.received(pb.Received(bytes=CHUNK_BYTES))
    clock.now += 0.2
    window.received(pb.Received(bytes=CHUNK_BYTES, probe=1))
    assert fill(window) > 1


@pytest.mark.parametrize("wrong", [CHUNK_BYTES - 1, 3 * CHUNK_BYTES])
def test_what_cannot_have_been_received(window, wrong):
    fill(window)
    window.received(pb.Received(bytes=CHUNK_BYTES))
    fill(window)
    with pytest.raises(Rejected, match=f"{wrong} bytes were received, of {2 * CHUNK_BYTES}"):
        window.received(pb.Received(bytes=wrong))


def carried(window, clock, delay_s, bytes_per_s, chunks) -> float:
    """Seconds until the server has so many chunks, by a link like this."""
    began = free = clock.now
    sent = received = 0
    events: deque[tuple[float, int]] = deque()  # when the word of it is back, and the bytes
    answer = (clock.now + 2 * delay_s, window.probe().number)
    while received < chunks * CHUNK_BYTES:
        while window.is_open and sent < chunks * CHUNK_BYTES:
            window.sent(CHUNK_BYTES)
            sent += CHUNK_BYTES
            free = max(free, clock.now) + CHUNK_BYTES / bytes_per_s
            events.append((free + 2 * delay_s, sent))
        if answer and answer[0] <= events[0][0]:
            clock.now = answer[0]
            window.received(pb.Received(bytes=received, probe=answer[1]))
            answer = None
        else:
            clock.now, received = events.popleft()
            window.received(pb.Received(bytes=received, probe=0 if answer else 1))
    return clock.now - began - delay_s


@pytest.mark.parametrize("delay_s", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("bytes_per_s", [2_000_000, 100_000_000, 1_000_000_000])
def test_a_far_link_is_kept_busy(window, clock, delay_s, bytes_per_s):
    """It begins with one chunk, and has enough under way after some of its round trips."""
    best = 1000 * CHUNK_BYTES / bytes_per_s
    warm = 2 * delay_s * 12
    assert carried(window, clock, delay_s, bytes_per_s, 1000) < 1.02 * best + warm


def test_a_far_link_is_not_filled_without_end(window, clock):
    carried(window, clock, 0.05, 100_000_000, 1000)
    held = 0.1 * 100_000_000
    assert held < fill(window) * CHUNK_BYTES < 2 * held + 3 * CHUNK_BYTES


@given(
    st.lists(st.integers(1, CHUNK_BYTES + 21), min_size=1, max_size=40),
    st.lists(st.booleans(), max_size=200),
)
def test_a_server_that_says_nothing_of_little_holds_up_nobody(sizes, turns):
    """Frames of any size: all go, and never does more wait than a chunk and what is not said."""
    window = Window(Clock())
    to_send, arrived = deque(sizes), deque()
    came = said = 0
    turns = deque(turns)
    while to_send or arrived:
        sends = to_send and window.is_open and (not arrived or (turns and turns.popleft()))
        if sends:
            window.sent(to_send[0])
            arrived.append(to_send.popleft())
            assert sum(arrived) < CHUNK_BYTES + 21 + RECEIVED_BYTES
        else:
            assert arrived, "the sender waits, and so does the server"
            came += arrived.popleft()
            if came - said >= RECEIVED_BYTES:
                said = came
                window.received(pb.Received(bytes=said))

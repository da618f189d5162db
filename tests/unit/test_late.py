"""Who is still at the message of a round that is over, and what has come of it."""

from __future__ import annotations

import pytest
from fedkube_server.calls import Answer
from fedkube_server.folds import Late
from fedkube_server.late import Away, Come, LateUpdates

from fedkube.proto.v1 import exchange_pb2 as pb


def come(client, number, turn=0):
    outcome = pb.Outcome()
    return Come(
        client, turn, b"", number, str(number), Answer(outcome, []), Late(outcome, [], [], {})
    )


def test_a_client_is_away_until_it_comes_or_goes():
    late = LateUpdates(0.5, 10)
    assert (late.away(1), late.coming, late.waiting) == (None, False, 0)
    late.left(1, Away(11, 1))
    late.left(2, Away(12, 1))
    assert late.away(1) == Away(11, 1)
    late.came(come(1, 1))
    assert (late.away(1), late.coming, late.waiting) == (None, True, 1)
    late.gone(2)
    assert (late.away(2), late.coming) == (None, False)


def test_what_has_come_is_taken_once_in_an_order_of_its_own():
    late = LateUpdates(0.5, 10)
    for client in (3, 1, 2):
        late.came(come(client, 1))
    assert [each.client for each in late.take()] == [1, 2, 3]
    assert late.take() == []


def test_what_is_too_old_is_told_from_what_is_not():
    late = LateUpdates(0.5, 2)
    for client, number in ((1, 1), (2, 2), (3, 3)):
        late.left(client, Away(10 + client, number))
    assert late.too_old(4) == [11]
    assert late.all_away() == [11, 12, 13]
    assert late.share(2) > 0
    assert late.share(3) == 0


@pytest.mark.parametrize(
    ("exponent", "rounds", "share"), [(0.5, 0, 1.0), (0.5, 3, 0.5), (1.0, 3, 0.25), (0.0, 9, 1.0)]
)
def test_the_older_the_less(exponent, rounds, share):
    assert LateUpdates(exponent, 10).share(rounds) == pytest.approx(share)

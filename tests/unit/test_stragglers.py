"""Which calls take so long that a second worker should try them as well."""

from hypothesis import given
from hypothesis import strategies as st

from fedkube.core.stragglers import FACTOR, LEAST_ENDED, LEAST_S, slow

SECONDS = st.floats(0, 1e6)


def test_the_slowest_are_first():
    assert slow({1: 5.0, 2: 31.0, 3: 40.0, 4: 30.0}, [10.0, 10.0, 10.0]) == [3, 2]


def test_of_a_kind_of_which_little_is_known_none_is():
    assert slow({1: 1e6}, [1.0, 1.0]) == []


def test_short_calls_are_not_worth_it():
    assert slow({1: 0.9}, [0.01] * 5) == []


@given(st.dictionaries(st.integers(), SECONDS), st.lists(SECONDS, max_size=20))
def test_a_slow_call_takes_longer_than_most_did(running, ended):
    late = slow(running, ended)
    assert [running[each] for each in late] == sorted(
        (running[each] for each in late), reverse=True
    )
    assert not late or len(ended) >= LEAST_ENDED
    for each in late:
        assert running[each] > LEAST_S
        quick = sum(seconds * FACTOR < running[each] for seconds in ended)
        assert 2 * quick >= len(ended)

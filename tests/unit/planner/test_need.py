"""How many workers a run has use for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedkube.planner.need import Need

PATIENCE_S = 10.0


def test_nothing_is_known_before_the_first_round() -> None:
    assert Need().most(0.0) is None


def test_a_server_that_waits_for_its_app_has_not_said_that_it_needs_nobody() -> None:
    need = Need(PATIENCE_S)
    need.note(0.0, 0)
    assert need.most(50.0) is None
    need.note(51.0, 8)
    need.note(52.0, 0)
    assert (need.most(52.0), need.most(100.0)) == (8, 0)


def test_a_pause_that_is_short_costs_no_workers_and_a_long_one_does() -> None:
    need = Need(PATIENCE_S)
    need.note(0.0, 8)
    need.note(100.0, 0)  # the round is over: the server aggregates
    assert need.most(100.0) == 8
    assert need.most(109.0) == 8
    assert need.most(110.0) == 0
    need.note(111.0, 8)
    assert need.most(111.0) == 8


def test_workers_are_given_up_as_a_round_runs_out_of_clients() -> None:
    need = Need(PATIENCE_S)
    for second in range(9):
        need.note(second, 8 - second)
    assert need.most(8.0) == 8
    assert need.most(14.0) == 4, "as it was from 4 s to 5 s"
    assert need.most(18.0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 50)), min_size=1, max_size=30),
    st.floats(0, 30),
)
def test_it_is_the_most_that_held_at_any_moment_of_the_window(
    steps: list[tuple[float, int]], later: float
) -> None:
    need, now, held = Need(PATIENCE_S), 0.0, []
    for pause, calls in [(0.0, 1), *steps]:
        now += pause
        need.note(now, calls)
        held.append((now, calls))
        # As a plain reading of the definition has it.
        ends = [at for at, _ in held[1:]] + [float("inf")]
        since = now - PATIENCE_S
        assert need.most(now) == max(
            calls for (_, calls), end in zip(held, ends, strict=True) if end > since
        )
    now += later
    ends = [at for at, _ in held[1:]] + [float("inf")]
    assert need.most(now) == max(
        calls for (_, calls), end in zip(held, ends, strict=True) if end > now - PATIENCE_S
    )

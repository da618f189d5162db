from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkube.cli import cohorts
from fedkube.core.cohort import asked, share
from fedkube.core.errors import Usage

SIZES = st.integers(1, 10_000)
FRACTIONS = st.floats(0, 1, exclude_min=True)


@pytest.mark.parametrize(
    ("clients", "fraction", "wanted"),
    [(10, 0.5, 5), (10, 0.25, 3), (10, 0.24, 2), (10, 0.01, 1), (3, 1.0, 3)],
)
def test_a_fraction_is_rounded_to_the_nearest_and_at_least_one(clients, fraction, wanted):
    assert share(clients, fraction) == wanted


@pytest.mark.parametrize(
    ("wanted", "factor", "available", "expected"),
    [(10, 1.1, 100, 11), (10, 1.3, 100, 13), (8, 1.25, 100, 10), (8, 1.3, 10, 10), (3, 1.0, 3, 3)],
)
def test_more_are_asked_than_are_wanted_and_no_more_than_there_are(
    wanted, factor, available, expected
):
    assert asked(wanted, factor, available) == expected


@given(SIZES, FRACTIONS)
def test_a_share_is_of_the_clients(clients, fraction):
    assert 1 <= share(clients, fraction) <= clients


@given(SIZES, FRACTIONS, st.floats(1, 10))
def test_who_is_asked_is_there_and_never_fewer_than_are_wanted(clients, fraction, factor):
    wanted = share(clients, fraction)
    assert wanted <= asked(wanted, factor, clients) <= clients


# ------------------------------------------------------------- the option


def test_the_option_says_any_of_the_fields():
    cohort = cohorts.read(["fraction=0.5 minimum=3", "over-selection=1.5 deadline-seconds=60"], 10)
    assert (cohort.fraction, cohort.minimum) == (0.5, 3)
    assert (cohort.over_selection, cohort.deadline_seconds) == (1.5, 60)
    assert cohorts.read([], 10).minimum is None


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("size=3", "a cohort has no 'size'"),
        ("minimum=1", "the cohort's minimum is 1"),
        ("minimum=11", "cohort.minimum is 11, and the run has 10 clients"),
        ("minimum=6 fraction=0.5", "cohort.fraction 0.5 of 10 clients is 5"),
        ("fraction=2", "the cohort's fraction is 2"),
        ("over-selection=0.5", "the cohort's over-selection is 0.5"),
        ("late=perhaps over-selection=2", "the cohort's late is 'perhaps'"),
        ("late=fold", "nothing is ever late"),
        ("late=fold fraction=0.5", "nothing is ever late"),
        ("late=fold over-selection=2 max-staleness=0", "the cohort's max-staleness is 0"),
        (
            "late=fold over-selection=2 staleness-exponent=-1",
            "the cohort's staleness-exponent is -1",
        ),
        ("deadline-seconds=0", "the cohort's deadline-seconds is 0"),
        ("minimum=many", "the cohort's minimum is 'many'"),
    ],
)
def test_what_no_cohort_can_be_is_said(words, complaint):
    with pytest.raises(Usage) as error:
        cohorts.read([words], 10)
    assert complaint in error.value.message

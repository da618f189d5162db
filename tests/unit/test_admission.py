from __future__ import annotations

import math

import pytest

from fedkube.core.admission import Expected, refusal

SENT = {"w": (2, 3), "b": (3,)}
RULES = Expected(SENT, "num-examples")
NUMBERS = {"num-examples": 5, "loss": 0.1}


def test_a_reply_that_fits_is_admitted():
    assert refusal(RULES, [dict(SENT)], NUMBERS, None) is None


def test_the_order_of_names_does_not_matter():
    assert refusal(RULES, [{"b": (3,), "w": (2, 3)}], NUMBERS, None) is None


@pytest.mark.parametrize(("arrays", "count"), [([], 0), ([SENT, SENT], 2)])
def test_exactly_one_array_record_is_averaged(arrays, count):
    assert refusal(RULES, arrays, NUMBERS, None) == (
        f"it holds {count} array records, and exactly one is averaged"
    )


def test_a_missing_array_is_named():
    assert refusal(RULES, [{"w": (2, 3)}], NUMBERS, None) == (
        "its arrays are not those that were sent: it lacks 'b'"
    )


def test_an_extra_array_is_named():
    assert refusal(RULES, [{**SENT, "x": ()}], NUMBERS, None) == (
        "its arrays are not those that were sent: it adds 'x'"
    )


def test_missing_and_extra_are_said_together():
    assert refusal(RULES, [{"w": (2, 3), "x": ()}], NUMBERS, None) == (
        "its arrays are not those that were sent: it lacks 'b' and adds 'x'"
    )


def test_of_many_names_three_are_said():
    sent = Expected(dict.fromkeys("abcdef", ()), "n")
    assert refusal(sent, [{}], {"n": 1}, None) == (
        "its arrays are not those that were sent: it lacks 'a', 'b', 'c' and 3 more"
    )


def test_another_shape_is_refused():
    assert refusal(RULES, [{"w": (3, 2), "b": (3,)}], NUMBERS, None) == (
        "array 'w' has shape [3, 2], and [2, 3] was sent"
    )


def test_a_scalar_is_not_a_vector_of_one():
    reason = refusal(Expected({"w": ()}, "n"), [{"w": (1,)}], {"n": 1}, None)
    assert reason == "array 'w' has shape [1], and [] was sent"


def test_nan_and_infinity_are_refused():
    assert refusal(RULES, [SENT], NUMBERS, "b") == "array 'b' holds NaN or infinity"


def test_a_reply_without_its_weight_is_refused():
    assert refusal(RULES, [SENT], {"loss": 0.1}, None) == (
        "its metrics lack 'num-examples', the weight of the average"
    )


@pytest.mark.parametrize("weight", [True, [3], [1, 2], "3", None])
def test_a_weight_that_is_no_number_is_refused(weight):
    assert refusal(RULES, [SENT], {"num-examples": weight}, None) == (
        f"'num-examples' is {weight!r}, and must be one number"
    )


@pytest.mark.parametrize("weight", [0, -1, 0.0, -0.5, math.inf, -math.inf, math.nan])
def test_a_weight_that_is_not_above_zero_is_refused(weight):
    assert refusal(RULES, [SENT], {"num-examples": weight}, None) == (
        f"'num-examples' is {weight!r}, and must be above zero"
    )


@pytest.mark.parametrize("weight", [1, 0.25, 10**12])
def test_a_positive_weight_is_admitted(weight):
    assert refusal(RULES, [SENT], {"num-examples": weight}, None) is None


def test_where_no_arrays_are_expected_only_the_weight_counts():
    rules = Expected(None, "n")
    assert refusal(rules, [{"anything": (9,)}, {}], {"n": 1}, None) is None
    assert refusal(rules, [{"w": (9,)}], {"n": 1}, "w") == "array 'w' holds NaN or infinity"
    assert refusal(rules, [], {}, None) == "its metrics lack 'n', the weight of the average"

from __future__ import annotations

from datetime import datetime

import pytest

from fedkube.core import ids

AT = datetime(2026, 11, 23, 15, 11, 22)


def test_derived_numbers_are_the_same_in_every_release():
    """A run's seed must give the same clients and the same cohorts for ever."""
    assert ids.derive("run", "x") == 3_200_198_107_548_904_785
    assert ids.node_id(0, 0) == 748_793_040_183_561_274
    assert ids.node_id(42, 7) == 6_348_460_606_807_023_859
    assert ids.call_seed(42, 7, 3) == 6_149_644_045_043_116_578


def test_the_type_of_a_part_counts():
    assert ids.derive("1") != ids.derive(1)


def test_parts_do_not_run_into_each_other():
    assert ids.derive("ab", "c") != ids.derive("a", "bc")
    assert ids.derive(1, 23) != ids.derive(12, 3)


def test_a_node_id_is_no_call_seed():
    assert ids.derive("node", 1, 2) == ids.node_id(1, 2)
    assert ids.node_id(1, 2) not in {ids.call_seed(1, 2, call) for call in range(10)}


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("digits", "digits"),
        ("My App!", "my-app"),
        ("--a--b--", "a-b"),
        ("../../etc", "etc"),
        ("", "app"),
        ("été", "t"),
        ("x" * 50, "x" * 30),
        ("x" * 29 + "-yz", "x" * 29),
    ],
)
def test_a_run_id_is_fit_for_a_file_name(name, slug):
    assert ids.run_id(name, AT, b"\x4f\x1c") == f"20261123-151122-{slug}-4f1c"

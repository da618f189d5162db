"""How many workers an accelerator is found to take: laws that hold on any."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fedkube.core.accelerators import Reading
from fedkube.planner.packing import LOOK_S, SETTLE_S, SPARE, Packing

MIB = 1024 * 1024


class Device:
    """With workers that take ``each`` MiB, and do so ``late`` seconds after their start."""

    def __init__(self, total: int, empty: int, each: int, late: float, busy: float | None) -> None:
        self.total, self.empty, self.each, self.late, self.busy = total, empty, each, late, busy
        self.started = [0.0]

    def reading(self, at: float) -> Reading:
        there = sum(began + self.late <= at for began in self.started)
        used = self.empty + self.each * there
        return Reading(used * MIB, self.total * MIB, self.busy)

    def fill(self, packing: Packing, seconds: float) -> list[int]:
        """How many there were, whenever that changed. Memory may run out, and workers leave."""
        counts = [1]
        for step in range(int(seconds / LOOK_S)):
            at = step * LOOK_S
            self.started += [at] * packing.look(at, self.reading(at))
            while self.reading(at).used_bytes > self.total * MIB and len(self.started) > 1:
                self.started.pop()
                packing.left(len(self.started))
            if len(self.started) != counts[-1]:
                counts.append(len(self.started))
        return counts


sizes = st.integers(64, 40_000)


@given(
    total=st.integers(1_000, 200_000),
    empty=st.integers(0, 2_000),
    each=sizes,
    most=st.integers(1, 16),
    late=st.floats(0, SETTLE_S - 2 * LOOK_S),
)
def test_as_many_as_fit_and_never_more(total, empty, each, most, late):
    device = Device(total, empty, each, late, busy=0.2)
    counts = device.fill(Packing(most, empty * MIB), 120)
    fit = int((total * (1 - SPARE) - empty) / each)
    assert counts == sorted(counts), "nobody has to leave"
    assert counts[-1] in {max(1, min(most, fit + slack)) for slack in (-1, 0)}
    assert all(later <= 2 * sooner for sooner, later in itertools.pairwise(counts))


@given(
    total=st.integers(1_000, 200_000), each=sizes, late=st.floats(0, 60), most=st.integers(1, 16)
)
def test_memory_may_run_out_once_and_then_it_is_known(total, each, late, most):
    """Workers that take long until they show what they take are more than fit, for a while."""
    device = Device(total, 0, each, late, busy=None)
    counts = device.fill(Packing(most, 0), 400)
    fit = max(1, total // each)
    assert 1 <= counts[-1] <= min(most, fit)
    shrinks = [now < before for before, now in itertools.pairwise(counts)]
    assert sum(shrinks) <= 1, "once it is known how many fit, nobody is added"


@given(total=st.integers(1_000, 200_000), each=sizes, busy=st.floats(0.9, 1.0))
def test_what_computes_all_the_time_is_given_no_more(total, each, busy):
    assert Device(total, 0, each, 0.0, busy).fill(Packing(16, 0), 120) == [1]


@given(total=st.integers(1_000, 200_000), empty=st.integers(0, 900), each=st.integers(0, 60))
def test_who_does_not_use_it_is_not_several(total, empty, each):
    """An app that computes elsewhere."""
    packing = Packing(16, empty * MIB)
    assert Device(total, empty, each, 0.0, busy=0.0).fill(packing, 120) == [1]


@given(total=st.integers(10_000, 200_000), each=st.integers(64, 1_000))
def test_those_that_have_nothing_to_do_are_not_counted_as_small(total, each):
    """Two workers of which one has never had a client: nobody knows whether a third fits."""
    packing = Packing(16, 0)
    device = Device(total, 0, each, 0.0, busy=0.1)
    device.reading = lambda at: Reading(each * MIB, total * MIB, 0.1)
    assert device.fill(packing, 300) == [1, 2]


def test_one_that_is_slow_to_load_is_counted_as_the_others():
    """40 GB, 8 GB each, and of four workers one shows nothing: there is no room for a fifth."""
    packing = Packing(16, 0)
    device = Device(40_000, 0, 8_000, 0.0, busy=0.1)
    usual = device.reading

    def reading(at: float) -> Reading:
        told = usual(at)
        return Reading(min(told.used_bytes, 24_000 * MIB), told.total_bytes, told.busy)

    device.reading = reading
    assert device.fill(packing, 300) == [1, 2, 4]

"""How the C heap is dealt with; in processes of their own, since it is one a process."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest

from fedkube.core import heap

_CODE = """
import time
from fedkube.core import heap

def mib():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

heap.keep()
heap._TRIM_S = {pause}
heap.trim_now_and_then()
before = mib()
burst = [bytes(1 << 20) + bytes(1) for _ in range(100)]
for each in range(0, 100, 2):
    burst[each] = None  # so that what is free is not all at the end
del burst
until = time.monotonic() + {looks_s}
while mib() - before > 50 and time.monotonic() < until:
    time.sleep(0.05)
print(mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is glibc's")
@pytest.mark.parametrize(("pause", "looks_s", "kept"), [(60.0, 0.5, True), (0.1, 20.0, False)])
def test_what_a_burst_took_is_kept_for_a_while_and_then_given_back(
    pause: float, looks_s: float, kept: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(pause=pause, looks_s=looks_s)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (float(done.stdout) > 50) is kept, done.stdout


def test_the_peak_is_this_processs_and_not_that_of_who_started_it():
    ours = np.ones(200_000_000, np.uint8)
    done = subprocess.run(
        [sys.executable, "-c", "from fedkube.core import heap; print(heap.peak_bytes())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 5_000_000 < int(done.stdout) < ours.nbytes
    assert heap.peak_bytes() > ours.nbytes


def test_what_stays_is_looked_at_when_half_of_it_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("unfreeze", "collect", "freeze"):
        monkeypatch.setattr(gc, name, lambda name=name: done.append(name))
    residents = heap.Residents(many=10)
    looked_at = []
    for there in range(1, 81):
        residents.came(there)
        if done:
            assert done == ["unfreeze", "collect", "freeze"]
            looked_at.append(there)
            done.clear()
    assert looked_at == [10, 20, 39, 77]
    for _ in range(36):
        residents.came(80)  # each in another's place
    assert not done
    residents.came(80)
    assert done

from __future__ import annotations

import pytest

from fedkube.core.errors import Usage
from fedkube.planner.machine import WORKER_BYTES, Machine, plan

BIG = 1 << 40


def test_as_many_workers_as_cores():
    made = plan(Machine(cores=4, memory_bytes=BIG), clients=10, workers=None)
    assert [worker.index for worker in made.workers] == [0, 1, 2, 3]
    assert made.why == "4 workers: this machine has 4 cores"


def test_no_more_workers_than_clients():
    made = plan(Machine(cores=8, memory_bytes=BIG), clients=3, workers=None)
    assert len(made.workers) == 3
    assert made.why == "3 workers: one for each client"


def test_asking_for_more_workers_than_clients_gives_one_each():
    made = plan(Machine(cores=1, memory_bytes=BIG), clients=2, workers=9)
    assert len(made.workers) == 2
    assert made.why == "2 workers: more than there are clients would idle"


def test_what_is_asked_for_is_given_even_beyond_the_cores():
    made = plan(Machine(cores=1, memory_bytes=0), clients=9, workers=5)
    assert len(made.workers) == 5
    assert made.why == "5 workers, as asked"


def test_memory_bounds_the_workers():
    made = plan(Machine(cores=8, memory_bytes=2 * WORKER_BYTES), clients=9, workers=None)
    assert len(made.workers) == 2
    assert made.why == "2 workers: memory for 512 MiB each"


def test_clients_with_several_threads_share_the_cores():
    made = plan(Machine(cores=8, memory_bytes=BIG), clients=9, workers=None, threads=3)
    assert len(made.workers) == 2
    assert {worker.threads for worker in made.workers} == {3}


def test_gpus_decide_where_there_are_any_and_are_dealt_out_in_turn():
    machine = Machine(cores=1, memory_bytes=BIG, gpus=("0", "3"))
    made = plan(machine, clients=9, workers=None)
    assert [worker.gpu for worker in made.workers] == ["0", "3"]
    assert made.why == "2 workers: this machine has 2 GPUs"
    assert [w.gpu for w in plan(machine, clients=9, workers=5).workers] == ["0", "3", "0", "3", "0"]


def test_as_many_as_there_turns_out_to_be_memory_for():
    machine = Machine(cores=8, memory_bytes=BIG, gpus=("0", "3"))
    made = plan(machine, clients=7, workers=None, per_gpu="auto")
    assert [worker.gpu for worker in made.workers] == ["0", "3"]
    assert [worker.gpu for worker in made.reserve] == ["0", "3", "0", "3", "0"]
    assert made.why == (
        "2 workers: one for each GPU, and as many more as there turns out to be memory for, "
        "7 at most"
    )
    few = plan(machine, clients=2, workers=None, per_gpu="auto")
    assert (len(few.workers), few.reserve) == (2, ())


@pytest.mark.parametrize(
    ("machine", "workers", "said"),
    [
        (Machine(cores=1, memory_bytes=BIG), None, "--clients-per-gpu is auto, and this machine"),
        (Machine(cores=1, memory_bytes=BIG, gpus=("0",)), 2, "both say how many workers"),
    ],
)
def test_where_nothing_is_to_be_found_out(machine, workers, said):
    with pytest.raises(Usage, match=said):
        plan(machine, clients=7, workers=workers, per_gpu="auto")


def test_one_is_written_in_the_singular():
    made = plan(Machine(cores=1, memory_bytes=BIG), clients=2, workers=None)
    assert made.why == "1 worker: this machine has 1 core"


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"clients": 0, "workers": None}, "--clients is 0"),
        ({"clients": 2, "workers": 0}, "--workers is 0"),
        ({"clients": 2, "workers": -1}, "--workers is -1"),
        ({"clients": 2, "workers": None, "threads": 0}, "--threads is 0"),
    ],
)
def test_what_is_below_one_is_refused(arguments, option):
    with pytest.raises(Usage, match=f"{option}, and a .* needs at least 1"):
        plan(Machine(cores=1, memory_bytes=BIG), **arguments)

"""Workers that share a device: how it is seen that its memory ran out, and who leaves then."""

from __future__ import annotations

import pytest
from fedkube_client.memory import ran_out, taken_back

from fedkube.core.accelerators import Reading
from fedkube.core.errors import Usage
from fedkube.local.devices import Devices
from fedkube.planner.machine import Machine, plan
from fedkube.proto.v1 import exchange_pb2 as pb

GPUS = Machine(cores=8, memory_bytes=64 * 2**30, gpus=("0", "1"))


def raised(reason):
    return pb.Failure(code=pb.Failure.APP_RAISED, reason=reason)


@pytest.mark.parametrize(
    "last",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "torch.cuda.OutOfMemoryError: CUDA out of memory",
        "RuntimeError: CUDA error: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8 GiB",
        "MemoryError",
        "RuntimeError: RESOURCE_EXHAUSTED: out of memory",
    ],
)
def test_it_is_seen_that_memory_ran_out(last):
    assert ran_out(raised(f'Traceback (most recent call last):\n  File "app.py"\n{last}'))


def test_a_process_that_was_killed_is_taken_to_have_used_it_up():
    assert ran_out(pb.Failure(code=pb.Failure.KILLED, reason="killed"))


@pytest.mark.parametrize(
    "failure",
    [
        raised("Traceback:\n    raise ValueError(OutOfMemoryError)\nValueError: no"),
        pb.Failure(code=pb.Failure.CRASHED, reason="out of memory"),
        pb.Failure(code=pb.Failure.TIMED_OUT, reason="too long"),
    ],
)
def test_other_failures_are_not(failure):
    assert not ran_out(failure)


def test_the_client_is_served_elsewhere_and_others_of_its_assignment_stay_as_they_are():
    outcomes = [
        pb.Outcome(call=1, content=pb.Content()),
        pb.Outcome(call=2, failure=raised("MemoryError")),
        pb.Outcome(call=3, failure=raised("ValueError")),
    ]
    assert taken_back(outcomes)
    assert outcomes[1].failure.code == pb.Failure.NOT_SERVED
    assert outcomes[2].failure == raised("ValueError")
    assert not taken_back(outcomes)


def test_workers_leave_a_device_until_one_is_left():
    planned = plan(GPUS, 10, None, per_gpu=3)
    workers = planned.workers
    assert [worker.gpu for worker in workers] == ["0", "1"] * 3
    devices = Devices(planned)
    assert devices.left(workers[0])
    assert devices.left(workers[2])
    assert not devices.shared(workers[4])
    assert not devices.left(workers[4])
    assert devices.count(workers[1]) == 3


def test_a_worker_without_a_gpu_shares_none():
    planned = plan(Machine(cores=4, memory_bytes=64 * 2**30), 4, None)
    assert not any(Devices(planned).shared(worker) for worker in planned.workers)


def test_those_in_reserve_join_until_memory_runs_out():
    planned = plan(GPUS, 10, None, per_gpu="auto")
    assert [worker.gpu for worker in planned.workers] == ["0", "1"]
    assert len(planned.reserve) == 8, "no more than there are clients"
    devices, first = Devices(planned), planned.workers[0]
    assert devices.to_fill == ["0", "1"]
    assert devices.shared(first), "others may come"
    packing = devices.begin("0", Reading(0, 2**34))
    assert packing.most == 5
    second, third = devices.join("0", 2)
    assert {second.gpu, third.gpu} == {"0"}
    assert devices.count(first) == 3
    assert devices.left(second)
    assert devices.count(first) == 2
    assert packing.found, "nobody else joins"
    assert devices.join("0", 1) == []
    assert devices.to_fill == ["1"]


def test_the_only_one_that_found_no_memory_stays_alone():
    planned = plan(GPUS, 10, None, per_gpu="auto")
    devices, first = Devices(planned), planned.workers[0]
    packing = devices.begin("0", Reading(0, 2**34))
    assert not devices.left(first)
    assert packing.found
    assert not devices.shared(first)


def test_the_plan_says_how_many_there_are_for_each_gpu():
    assert plan(GPUS, 10, None, per_gpu=4).why == "8 workers: this machine has 2 GPUs, 4 for each"
    assert len(plan(GPUS, 3, None, per_gpu=4).workers) == 3


@pytest.mark.parametrize(
    ("machine", "workers", "per_gpu", "said"),
    [
        (GPUS, None, 0, "must be from 1 to 64"),
        (GPUS, None, 65, "must be from 1 to 64"),
        (GPUS, 4, 2, "both say how many workers"),
        (Machine(cores=4, memory_bytes=2**33), None, 2, "this machine has no GPU"),
    ],
)
def test_what_cannot_be_is_refused(machine, workers, per_gpu, said):
    with pytest.raises(Usage, match=said):
        plan(machine, 10, workers, per_gpu=per_gpu)

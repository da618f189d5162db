from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedkube.planner.machine import MAX_CACHE_BYTES, MIN_CACHE_BYTES, WORKER_BYTES, Machine, plan

MACHINES = st.builds(
    Machine,
    cores=st.integers(1, 256),
    memory_bytes=st.integers(0, 1 << 42),
    gpus=st.lists(st.sampled_from("01234567"), unique=True, max_size=8).map(tuple),
)
CLIENTS = st.integers(1, 10_000)
THREADS = st.integers(1, 300)


@given(MACHINES, CLIENTS, st.none() | st.integers(1, 20_000), THREADS)
def test_at_least_one_worker_and_never_more_than_clients(machine, clients, workers, threads):
    made = plan(machine, clients, workers, threads)
    assert 1 <= len(made.workers) <= clients
    assert [worker.index for worker in made.workers] == list(range(len(made.workers)))
    if workers is not None:
        assert len(made.workers) == min(workers, clients)


@given(MACHINES, CLIENTS, THREADS)
def test_threads_do_not_follow_the_number_of_workers(machine, clients, threads):
    one = plan(machine, clients, 1, threads)
    many = plan(machine, clients, None, threads)
    assert {worker.threads for worker in one.workers + many.workers} == {threads}


@given(MACHINES, CLIENTS, THREADS)
def test_a_plan_never_exceeds_what_is_free(machine, clients, threads):
    count = len(plan(machine, clients, None, threads).workers)
    assert count == 1 or count * WORKER_BYTES <= machine.memory_bytes
    if machine.gpus:
        assert count <= len(machine.gpus)
    else:
        assert count == 1 or count * threads <= machine.cores


@given(MACHINES, CLIENTS, st.none() | st.integers(1, 50))
def test_gpus_are_shared_evenly(machine, clients, workers):
    used = [worker.gpu for worker in plan(machine, clients, workers).workers]
    if not machine.gpus:
        assert set(used) == {None}
        return
    shares = [used.count(gpu) for gpu in machine.gpus]
    assert sum(shares) == len(used)
    assert max(shares) - min(shares) <= 1


@given(MACHINES, CLIENTS, st.none() | st.integers(1, 50))
def test_the_caches_take_an_eighth_of_the_memory_within_their_bounds(machine, clients, workers):
    made = plan(machine, clients, workers).workers
    (cache,) = {worker.cache_bytes for worker in made}
    assert MIN_CACHE_BYTES <= cache <= MAX_CACHE_BYTES
    assert cache == MIN_CACHE_BYTES or cache * len(made) <= machine.memory_bytes / 8

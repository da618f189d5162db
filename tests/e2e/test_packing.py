"""Several clients on one GPU; the GPU is one in name only, with room for a few processes."""

import asyncio
import signal

import fake_gpu
import pytest
from run_processes import Processes

from fedkube.core.run_states import RunState


@pytest.fixture
def crowd(run, apps, tmp_path, monkeypatch):
    """Twelve clients in four workers on a GPU with room for so many."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    def on(room, *options, out="run", rounds=2):
        places = tmp_path / f"places-{out}"
        places.mkdir()
        for number in range(room):
            (places / f"{number}").touch()
        monkeypatch.setenv("PLACES", str(places))
        return run(
            apps / "misbehave", "--clients", "12", "--seed", "1", "--json", *options,
            "-c", f'mode="crowd" culprit=-1 at-round=0 sleep=0.3 num-server-rounds={rounds}',
            out=out,
        )  # fmt: skip

    return on


def test_workers_leave_a_gpu_until_the_others_fit(crowd):
    alone = crowd(1, out="alone", rounds=4)
    assert alone.code == 0, alone.text
    packed = crowd(2, "--clients-per-gpu", "4", out="packed", rounds=4)
    assert packed.code == 0, packed.text
    assert packed.failures() == []
    assert packed.log.count("memory ran out on GPU 0") == 2
    assert "and 2 of its workers go on" in packed.log
    assert packed.json["model"]["sha256"] == alone.json["model"]["sha256"]


def test_where_all_fit_nobody_leaves(crowd):
    ran = crowd(4, "--clients-per-gpu", "4")
    assert ran.code == 0, ran.text
    assert "memory ran out" not in ran.log


def test_the_last_worker_stays_and_its_clients_fail_with_their_reason(crowd):
    ran = crowd(0, "--clients-per-gpu", "2")
    assert ran.log.count("memory ran out on GPU 0") == 1
    assert len(ran.failures()) == 12
    assert all("CUDA error: out of memory" in reason for *_, reason in ran.failures())


# ----------------------------------------------------------------- as many as fit


def test_how_many_fit_is_found_by_looking(crowd, tmp_path, monkeypatch):
    """Room for two by what the driver says; the others of the twelve clients wait for them."""
    fake_gpu.install(
        tmp_path / "bin", monkeypatch, tmp_path / "places-found", each=1000, total=2500
    )
    found = crowd(2, "--clients-per-gpu", "auto", rounds=6, out="found")
    assert found.code == 0, found.text
    assert "a client takes 1.0 GB of GPU 0: 2 workers are on it from now on" in found.log
    assert "memory ran out" not in found.log
    assert found.failures() == []


def test_a_driver_that_says_more_than_there_is(crowd, tmp_path, monkeypatch):
    """Its second worker finds no place: it leaves, and nobody else is tried."""
    fake_gpu.install(
        tmp_path / "bin", monkeypatch, tmp_path / "places-run", each=1000, total=99_000
    )
    ran = crowd(1, "--clients-per-gpu", "auto", rounds=6)
    assert ran.code == 0, ran.text
    assert ran.log.count("workers are on it from now on") == 1
    assert "and 1 of its workers go on" in ran.log
    assert ran.failures() == []


def test_without_a_driver_that_says_it_there_is_one(crowd, tmp_path, monkeypatch):
    fake_gpu.install(tmp_path / "bin", monkeypatch, tmp_path / "places-run", each=1000, total=0)
    ran = crowd(1, "--clients-per-gpu", "auto")
    assert ran.code == 0, ran.text
    assert "nvidia-smi does not say how full GPU 0 is" in ran.log


# ----------------------------------------------------------------- in one container


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A run, and how to have so many workers at it which share a container with so much room."""
    places = tmp_path / "places"
    places.mkdir()
    monkeypatch.setenv("PLACES", str(places))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    config = {"mode": "crowd", "culprit": -1, "sleep": 0.3, "num-server-rounds": 4}

    def start(room):
        for number in range(room):
            (places / f"{number}").touch()
        return Processes(tmp_path, 12, **config)

    return start


def test_workers_of_a_container_leave_it_until_the_others_fit(container):
    async def scenario(run):
        server, port = await run.server()
        workers = run.worker(f"127.0.0.1:{port}", several=4)
        assert await workers.ends(60) == 0, workers.printed
        await server.ends(20)
        assert workers.printed.count("memory ran out: ") == 2

    with container(2) as run:
        asyncio.run(scenario(run))
    record = run.folder.read_record()
    assert record.state is RunState.SUCCEEDED
    assert record.rounds == 4
    for each in run.folder.read_history()[1:]:
        assert sorted(each.phases["train"].clients) == list(range(12))
        assert not each.phases["train"].failures


def test_a_container_that_is_told_to_go_hands_over_what_it_has(container):
    """Two of its workers have ended their clients by then, or are at them; another goes on."""

    async def scenario(run):
        server, port = await run.server()
        first = run.worker(f"127.0.0.1:{port}", "worker-0", several=2, leave_s=20)
        await first.says("begins")
        first.signal(signal.SIGTERM)
        assert await first.ends(20) == 128 + signal.SIGTERM
        second = run.worker(f"127.0.0.1:{port}", "worker-1", several=2)
        assert await second.ends(60) == 0, second.printed
        await server.ends(20)

    with container(2) as run:
        asyncio.run(scenario(run))
    assert run.folder.read_record().state is RunState.SUCCEEDED
    for each in run.folder.read_history()[1:]:
        assert sorted(each.phases["train"].clients) == list(range(12))

"""Several clients on one GPU; the GPU is one in name only, with room for a few processes."""

import pytest


@pytest.fixture
def crowd(run, apps, tmp_path, monkeypatch):
    """Twelve clients in four workers on a GPU with room for so many."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    def on(room, *options, out="run"):
        places = tmp_path / f"places-{out}"
        places.mkdir()
        for number in range(room):
            (places / f"{number}").touch()
        monkeypatch.setenv("PLACES", str(places))
        return run(
            apps / "misbehave", "--clients", "12", "--seed", "1", "--json", *options,
            "-c", 'mode="crowd" culprit=-1 sleep=0.05 num-server-rounds=2', out=out,
        )  # fmt: skip

    return on


def test_workers_leave_a_gpu_until_the_others_fit(crowd):
    alone = crowd(1, out="alone")
    assert alone.code == 0, alone.text
    packed = crowd(2, "--clients-per-gpu", "4", out="packed")
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

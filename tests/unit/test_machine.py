from __future__ import annotations

import pytest

from fedkube.local import machine


def test_this_machine_has_something():
    seen = machine.look()
    assert seen.cores >= 1
    assert seen.memory_bytes > 1 << 20


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("", None),
        ("nonsense", None),
    ],
)
def test_a_cgroups_quota_of_the_second_version(tmp_path, quota, cpus):
    (tmp_path / "cpu.max").write_text(quota)
    assert machine._quota(tmp_path) == cpus


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [
        ("400000", "100000", 4),
        ("-1", "100000", None),
        ("50000", "100000", 1),
        ("1", "0", None),
        ("x", "100000", None),
    ],
)
def test_a_cgroups_quota_of_the_first_version(tmp_path, quota, period, cpus):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text(period)
    assert machine._quota(tmp_path) == cpus


def test_without_a_cgroup_there_is_no_quota(tmp_path):
    assert machine._quota(tmp_path) is None


@pytest.mark.parametrize(
    ("allowed", "quota", "cores"), [(8, None, 8), (8, 2, 2), (2, 8, 2), (1, None, 1)]
)
def test_the_lower_of_affinity_and_quota_counts(monkeypatch, allowed, quota, cores):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(machine, "_quota", lambda _: quota)
    assert machine.cores() == cores


@pytest.mark.parametrize(("limit", "factor"), [(None, 1), (1 << 60, 1), (12345, 0)])
def test_a_containers_memory_limit_counts_where_it_is_lower(monkeypatch, limit, factor):
    monkeypatch.setattr(machine, "_number", lambda _: None)
    installed = machine.memory()
    monkeypatch.setattr(machine, "_number", lambda _: limit)
    assert machine.memory() == (installed if factor else limit)


@pytest.mark.parametrize(
    ("visible", "ids"),
    [("", ()), ("-1", ()), ("0", ("0",)), ("0,2", ("0", "2")), ("GPU-ab12", ("GPU-ab12",))],
)
def test_the_environment_says_which_gpus(monkeypatch, visible, ids):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == ids


def test_otherwise_the_driver_says_which_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine.accelerators, "ids", lambda: ("0", "1"))
    assert machine.gpus() == ("0", "1")

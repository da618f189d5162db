from __future__ import annotations

import subprocess

import pytest

from fedkube.core import accelerators
from fedkube.core.accelerators import Reading

MIB = 1024 * 1024


@pytest.fixture
def nvidia_smi(monkeypatch):
    """What it prints, or the error of calling it; and what it was asked."""
    monkeypatch.setattr(accelerators.shutil, "which", lambda name: f"/usr/bin/{name}")
    asked = []

    def answers(answer):
        def run(words, **_):
            asked.append(words)
            if isinstance(answer, Exception):
                raise answer
            return subprocess.CompletedProcess([], 0, stdout=answer)

        monkeypatch.setattr(accelerators.subprocess, "run", run)
        return asked

    return answers


@pytest.mark.parametrize(
    ("line", "reading"),
    [
        ("1024, 81920, 37\n", Reading(1024 * MIB, 81920 * MIB, 0.37)),
        ("0, 81920, 0\n", Reading(0, 81920 * MIB, 0.0)),
        ("0, 81920, [N/A]\n", Reading(0, 81920 * MIB, None)),
        ("3, 4, 5\n6, 7, 8\n", Reading(3 * MIB, 4 * MIB, 0.05)),
        ("[N/A], [N/A], [N/A]\n", None),
        ("1024, 0, 0\n", None),
        ("No devices were found\n", None),
        ("", None),
    ],
)
def test_how_full_and_how_busy_one_is(nvidia_smi, line, reading):
    asked = nvidia_smi(line)
    assert accelerators.read("GPU-ab12") == reading
    assert "--id=GPU-ab12" in asked[0]


def test_in_a_container_it_is_the_one_that_there_is(nvidia_smi):
    asked = nvidia_smi("1, 2, 3\n")
    assert accelerators.read() is not None
    assert not any(each.startswith("--id") for each in asked[0])


def test_which_there_are(nvidia_smi):
    nvidia_smi("0\n1\n")
    assert accelerators.ids() == ("0", "1")


@pytest.mark.parametrize(
    "error",
    [
        OSError(),
        subprocess.CalledProcessError(9, "nvidia-smi"),
        subprocess.TimeoutExpired("nvidia-smi", 10),
    ],
)
def test_a_tool_that_fails_tells_nothing(nvidia_smi, error):
    nvidia_smi(error)
    assert (accelerators.ids(), accelerators.read("0")) == ((), None)


def test_without_the_tool_nothing_is_known(monkeypatch):
    monkeypatch.setattr(accelerators.shutil, "which", lambda _: None)
    assert (accelerators.ids(), accelerators.read("0")) == ((), None)

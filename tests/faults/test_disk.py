"""What is written, whatever happens to the server or the disk meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from fedkube_server.calls import Answer
from fedkube_server.past import Past

from fedkube.api.v1alpha1 import Pool, RunSpec, Server
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store.journal import Journal
from fedkube.store.logs import LocalLog
from fedkube.store.run_folder import RunFolder, RunRecord

# What a server's life commits: so many rounds of two clients, an update of 1,000 float32 each.
ROUNDS, CLIENTS, SIZE = 3, 2, 1000


def test_a_server_that_is_killed_between_checkpoint_and_history_leaves_no_mix(
    run, apps, monkeypatch
):
    """In each of its lives, when the second checkpoint of that life is there."""
    words = (apps / "message_api", "--clients", "4", "-c", "num-server-rounds=3")
    words += ("--seed", "5", "--keep-checkpoints", "0")
    wanted = run(*words, out="whole")
    monkeypatch.setenv("FEDKUBE_FAILPOINT", "round.checkpoint:2")
    ran = run(*words)
    assert ran.code == 0, ran.text
    assert ran.log.count("it goes on from what it has committed") >= 2
    assert ran.record.model.sha256 == wanted.record.model.sha256
    assert checkpoints(ran.folder) == checkpoints(wanted.folder)
    assert [(each.round, counted(each)) for each in ran.rounds] == [
        (each.round, counted(each)) for each in wanted.rounds
    ]


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


def counted(each) -> dict[str, list[int]]:
    return {name: sorted(phase.clients) for name, phase in each.phases.items()}


@pytest.mark.parametrize("journal", ["", "off"])
def test_what_a_killed_server_has_half_written_is_gone_with_its_successor(tmp_path, journal):
    """Nobody may have the folder's journal open meanwhile; without one, nobody knows."""
    code = (
        "import os, sys; from pathlib import Path; from fedkube.store import atomic; "
        "os.replace = lambda *_: os.kill(os.getpid(), 9); "
        "atomic.write(Path(sys.argv[1]), b'new')"
    )
    folder = RunFolder.create(tmp_path / "run")
    (folder.path / "checkpoints").mkdir(exist_ok=True)
    for name in ("history.csv", "checkpoints/round-1.safetensors"):
        (folder.path / name).write_bytes(b"old")
        killed = subprocess.run([sys.executable, "-c", code, str(folder.path / name)], check=False)
        assert killed.returncode == -signal.SIGKILL
    left = set(folder.path.rglob("*.tmp"))
    assert len(left) == 2
    record = RunRecord(
        run_id="r", app="a", versions={}, created_at=datetime.now(UTC),
        spec=RunSpec(app="", seed=1, pool=Pool(clients=2), server=Server(journal=journal)),
    )  # fmt: skip
    opened = folder.journal(record)
    assert (opened is None) == bool(journal)
    assert set(folder.path.rglob("*.tmp")) == (left if journal else set())
    assert (folder.path / "history.csv").read_bytes() == b"old"


@pytest.fixture
def begin_life(tmp_path: Path):
    """Each call begins another life of a server in the folder."""
    folder = RunFolder.create(tmp_path / "run")
    journals = []

    def begin() -> Past:
        for each in journals:
            each.close()
        journals[:] = [Journal(LocalLog(folder.path / "journal"), "r")]
        return Past(journals[0])

    return begin


def settle(past: Past, client: int, turn: int, size: int = SIZE) -> None:
    outcome = pb.Outcome(call=1)
    items = outcome.content.records.add(name="arrays").arrays.items
    items.add(name="w", dtype="float32", shape=[size], stype="numpy.ndarray", blob=0)
    data = np.full(size, turn, np.float32).tobytes()
    past.settled(client, turn, b"asked", None, Answer(outcome, [memoryview(data)]))


def values(answer: Answer) -> set[float]:
    return set(np.frombuffer(answer.blobs[0], np.float32).tolist())


@pytest.mark.parametrize("broken", range(ROUNDS))
@pytest.mark.parametrize("where", [5, 20, 60, 4000, -100])
def test_a_flipped_bit_is_noticed_and_what_was_committed_before_it_is_used(
    begin_life, tmp_path, broken, where
):
    """And what was after it is not, whole as it may be; the next life goes on from there."""
    path = tmp_path / "run" / "journal"
    past = begin_life()
    ends = [path.stat().st_size]
    for turn in range(ROUNDS):
        for client in range(CLIENTS):
            settle(past, client, turn)
        past.commit()
        ends.append(path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[where + (ends[broken] if where > 0 else ends[broken + 1])] ^= 4
    path.write_bytes(data)
    past = begin_life()
    assert past.left == broken * CLIENTS
    for turn in range(broken):
        assert values(past.recall(0, turn, b"asked", None)) == {turn}
    for client in range(CLIENTS):
        settle(past, client, broken)
    past.commit()
    del past  # which looks into the file
    assert begin_life().left == (broken + 1) * CLIENTS

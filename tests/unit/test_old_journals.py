"""Journals that earlier versions have written are read as those read them, and recalled."""

import json
import shutil
from pathlib import Path

import pytest
from blake3 import blake3
from fedkube_server.calls import Answer
from fedkube_server.folds import Fold
from fedkube_server.past import Past
from google.protobuf.json_format import MessageToDict

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store.journal import Journal
from fedkube.store.logs import LocalLog
from fedkube.store.run_folder import RunFolder

JOURNALS = Path(__file__).parents[1] / "data" / "journals"
ALL = sorted(path.parent for path in JOURNALS.glob("*/*/journal"))


def opened(folder, tmp_path):
    path = tmp_path / "journal"
    shutil.copy(folder / "journal", path)
    run = RunFolder(folder).read_record().run_id if (folder / "run.json").exists() else folder.name
    return Journal(LocalLog(path), run)


def named(folder):
    return f"{folder.parent.name}-{folder.name}"


def test_there_are_some():
    assert {"echo", "misbehave", "own_loop", "stateful", "turned"} <= {each.name for each in ALL}


@pytest.mark.parametrize("folder", ALL, ids=named)
def test_what_was_written_is_read(folder, tmp_path, caplog):
    found = [
        {
            "entry": MessageToDict(each.entry),
            "blobs": [blake3(blob).hexdigest()[:16] for blob in each.blobs],
        }
        for each in opened(folder, tmp_path).stored
    ]
    assert found == json.loads((folder / "entries.json").read_text())
    assert "torn" not in caplog.text


@pytest.mark.parametrize("folder", [each for each in ALL if each.name != "turned"], ids=named)
def test_what_was_committed_is_recalled(folder, tmp_path):
    journal = opened(folder, tmp_path)
    calls = [
        (call, each.entry.committed)
        for each in journal.stored
        for call in each.entry.committed.calls
    ]
    past = Past(journal)
    assert past.left == len(calls) >= 4
    for call, committed in calls:
        summed = committed.HasField("mean")
        fold = Fold({}, "num-examples", 2) if summed else None
        outcome = past.recall(call.client, call.turn, call.asked, fold)
        assert isinstance(outcome, pb.Failure if call.outcome.HasField("failure") else Answer)
        if fold is not None:
            assert fold.weights == list(committed.mean.weights)
            assert set(fold.mean()) == {item.name for item in committed.mean.arrays.items}
    assert past.left == 0


@pytest.mark.parametrize("folder", [each for each in ALL if each.name == "turned"], ids=named)
def test_of_what_was_void_nothing_is_recalled(folder, tmp_path):
    past = Past(opened(folder, tmp_path))
    assert past.left == 3
    assert past.tell(lambda: pytest.fail("it was told")) == [0, 2]
    assert past.tell(lambda: pytest.fail("it was told")) == [0]

"""`fedkube fork`: runs that have the first rounds of another as their past."""

import json
import shutil
import signal

import pytest

from fedkube.store.run_folder import RunFolder


@pytest.fixture
def whole(run):
    """A run to its end, whose journal is kept."""

    def to_its_end(app, *options, out="whole", kept=True):
        ran = run(app, "--seed", "5", "--clients", "3", "--keep-journal", *options, out=out)
        assert ran.code == 0, ran.text
        assert (ran.folder / "journal").exists() is kept
        return ran

    return to_its_end


@pytest.fixture
def fork(fedkube, tmp_path):
    """`fedkube fork` of a run folder: how it ended, and the new folder."""
    count = iter(range(100))

    def begin(folder, number, *options):
        out = tmp_path / f"fork-{next(count)}"
        words = ("--round", str(number), "--out", str(out), "--no-progress", "--json")
        return fedkube("fork", str(folder), *words, *options), RunFolder(out)

    return begin


def told(rounds):
    """What the histories say apart from times and bytes."""
    return [
        (each.round, each.server, {name: phase.metrics for name, phase in each.phases.items()})
        for each in rounds
    ]


def rounds_in_the_journal(folder):
    journal = RunFolder(folder).journal(RunFolder(folder).read_record())
    noted = [each.entry.committed.round for each in journal.stored]
    journal.close()
    return noted


@pytest.mark.parametrize("app", ["message_api", "own_loop", "stateful", "custom_strategy"])
def test_a_fork_with_the_same_config_ends_as_the_run_did(whole, fork, apps, app):
    ran = whole(apps / app)
    noted = rounds_in_the_journal(ran.folder)
    assert noted[0] == 1
    assert noted == sorted(noted)
    for number in (1, 2):
        done, folder = fork(ran.folder, number)
        assert done.returncode == 0, done.stderr
        record = folder.read_record()
        assert record.run_id != ran.record.run_id
        assert record.forked_from == f"{ran.record.run_id}, round {number}"
        assert (record.model and record.model.sha256) == (
            ran.record.model and ran.record.model.sha256
        )
        assert told(folder.read_history()) == told(ran.rounds)
        log = (folder.path / "log.txt").read_text()
        assert "replies of earlier are there" in log
        assert "does not do what it did before" not in log
        result = [line for line in log.splitlines() if "RESULT " in line][-1]
        assert json.loads(result.partition("RESULT ")[2]) == ran.result


def test_a_fork_with_another_config_goes_another_way_after_its_round(whole, fork, apps):
    ran = whole(apps / "message_api")
    done, folder = fork(ran.folder, 2, "-c", "learning-rate=0.3")
    assert done.returncode == 0, done.stderr
    assert folder.read_record().spec.run_config["learning-rate"] == 0.3
    rounds = folder.read_history()
    same = [each for each in ran.rounds if each.round <= 2]
    for each in (*rounds, *same):
        for phase in each.phases.values():
            phase.clients.sort()  # they are in the order in which they came
    assert rounds[: len(same)] == same, "times and bytes included"
    assert told(rounds)[len(same) :] != told(ran.rounds)[len(same) :]
    record = folder.read_record()
    assert record.model.sha256 != ran.record.model.sha256
    assert record.bytes_up < 1.2 * ran.record.bytes_up, "those of the first rounds, and its own"
    assert "does not do what it did before" not in (folder.path / "log.txt").read_text()


def test_more_rounds_after_the_last(whole, fork, apps, run):
    ran = whole(apps / "message_api", "-c", "num-server-rounds=2")
    done, folder = fork(ran.folder, 2, "-c", "num-server-rounds=4")
    assert done.returncode == 0, done.stderr
    longer = run(apps / "message_api", "--seed", "5", "--clients", "3", out="longer")
    assert folder.read_record().model.sha256 == longer.record.model.sha256
    assert [path.name for path in folder.checkpoints()] == [
        f"round-00000{number}.safetensors" for number in (2, 3, 4)
    ]


def test_a_fork_of_a_fork_and_a_fork_that_is_killed(whole, fork, apps, monkeypatch):
    ran = whole(apps / "message_api")
    _, first = fork(ran.folder, 1)
    done, second = fork(first.path, 3)
    assert done.returncode == 0, done.stderr
    assert second.read_record().model.sha256 == ran.record.model.sha256
    done, third = fork(ran.folder, 1, "-c", "learning-rate=0.3")
    # The fork itself writes four entries.
    monkeypatch.setenv("FEDKUBE_FAILPOINT", "journal.torn:5")
    done, fourth = fork(ran.folder, 1, "-c", "learning-rate=0.3")
    assert done.returncode == 0, done.stderr
    assert "it goes on from what it has committed" in (fourth.path / "log.txt").read_text()
    assert fourth.read_record().model.sha256 == third.read_record().model.sha256


def test_a_run_that_was_stopped_can_be_forked_and_one_that_goes_on_cannot(begin, fork, apps, run):
    words = (apps / "misbehave", "--clients", "2", "--seed", "5")
    options = ("-c", "sleep=0.4 num-server-rounds=30")
    running = begin(*words, *options)
    running.await_that(lambda: len(RunFolder(running.folder).read_history()) >= 2, "round")
    refused, folder = fork(running.folder, 1)
    assert refused.returncode == 2
    assert "the run is going on" in refused.stderr
    assert not folder.path.exists()
    running.process.send_signal(signal.SIGINT)
    running.wait()
    last = max(rounds_in_the_journal(running.folder))
    refused, _ = fork(running.folder, last)
    assert refused.returncode == 2, "something of the last may be missing"
    assert f"has rounds 1 to {last - 1} whole" in refused.stderr
    done, folder = fork(running.folder, 1, "-c", "sleep=0.0")
    assert done.returncode == 0, done.stderr
    wanted = run(*words, "-c", "num-server-rounds=30", out="whole")
    assert folder.read_record().model.sha256 == wanted.record.model.sha256


def test_journals_in_an_object_store(whole, fork, apps, s3):
    ran = whole(apps / "message_api", "--journal", "s3://bucket/journals", kept=False)
    done, folder = fork(ran.folder, 2)
    assert done.returncode == 0, done.stderr
    assert folder.read_record().model.sha256 == ran.record.model.sha256
    assert {key.split("/")[2] for key in s3.objects} == {
        ran.record.run_id,
        folder.read_record().run_id,
    }, "each has its own"


def test_what_cannot_be_forked(whole, fork, run, apps, tmp_path):
    ran = whole(apps / "echo", "-c", "megabytes=0.001")
    for number in (0, -1, 4):
        refused, folder = fork(ran.folder, number)
        assert refused.returncode == 2
        assert f"--round is {number}, and the run in" in refused.stderr
        assert "has rounds 1 to 3 whole" in refused.stderr
        assert not folder.path.exists()
    refused, _ = fork(ran.folder, 1, "-c", "no-such-key=1")
    assert refused.returncode == 2
    (ran.folder / "journal").unlink()
    refused, _ = fork(ran.folder, 1)
    assert refused.returncode == 2
    assert "has no journal, so it cannot be forked" in refused.stderr
    assert "--keep-journal" in refused.stderr
    refused, _ = fork(tmp_path / "nowhere", 1)
    assert refused.returncode == 2
    assert "there is no run in" in refused.stderr


def test_a_journal_that_does_not_say_its_rounds(fork, apps, tmp_path):
    old = RunFolder.create(tmp_path / "old")
    there = apps.parent / "data" / "journals" / "1" / "echo"
    for name in ("run.json", "journal"):
        shutil.copy(there / name, old.path)
    record = old.read_record()
    record.spec.app = str(apps / "echo")
    old.write_record(record)
    refused, _ = fork(old.path, 1)
    assert refused.returncode == 2
    assert "has no rounds that are noted" in refused.stderr


def test_a_run_whose_journal_was_condensed_is_forked_after_that(whole, fork, apps):
    condensed = ("--journal-bytes", "1", "--clients", "20")
    ran = whole(apps / "message_api", *condensed, "-c", "num-server-rounds=7")
    refused, _ = fork(ran.folder, 1)
    assert refused.returncode == 2
    first = int(refused.stderr.partition("has rounds ")[2].partition(" to 7 whole")[0])
    assert 1 < first < 7
    for number in (first, 6):
        done, folder = fork(ran.folder, number)
        assert done.returncode == 0, done.stderr
        assert folder.read_record().model.sha256 == ran.record.model.sha256
        assert told(folder.read_history()) == told(ran.rounds)
    longer, folder = fork(ran.folder, 7, "-c", "num-server-rounds=9")
    assert longer.returncode == 0, longer.stderr
    assert [each.round for each in folder.read_history() if each.round] == list(range(1, 10))

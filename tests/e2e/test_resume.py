"""Servers that are killed where they write their journal, and runs that go on to the same model."""

import shutil
import signal
from pathlib import Path

import pytest

from fedkube.core.run_states import RunState
from fedkube.store.object_log import ObjectLog
from fedkube.store.run_folder import RunFolder

JOURNALS = Path(__file__).parents[1] / "data" / "journals"

# Whenever that makes the journal smaller.
CONDENSED = ("--journal-bytes", "1", "-c", "num-server-rounds=12", "--clients", "20")

# As with adapters: a round changes one of twenty arrays.
ADAPTERS = ("-c", "tensors=20 change=true changed-tensors=1 num-server-rounds=5")


@pytest.fixture
def whole(run):
    """A run that nothing happens to."""

    def to_its_end(app, *options):
        ran = run(app, "--seed", "5", *options, out="whole")
        assert ran.code == 0, ran.text
        return ran

    return to_its_end


@pytest.fixture
def resume(fedkube):
    """`fedkube resume` of a run folder; at the next failpoint, if one is named, the server dies."""

    def go_on(folder, failpoint="", *words):
        return fedkube("resume", str(folder), "--no-progress", *words, FEDKUBE_FAILPOINT=failpoint)

    return go_on


@pytest.mark.parametrize(
    ("app", "step", "options"),
    [
        ("message_api", "begun", ()),
        ("message_api", "torn", ("--workers", "1")),  # which sums for itself
        ("message_api", "torn", ("--workers", "4", "--relays", "2")),
        ("own_loop", "written", ()),
        ("stateful", "synced", ()),
        ("numpy_client", "torn", ()),
        ("legacy_workflow", "written", ()),
        ("secagg", "begun", ()),
        ("custom_strategy", "synced", ()),
        ("xgb_bytes", "torn", ()),
        ("message_api", "condensing", CONDENSED),
        ("message_api", "condensed", CONDENSED),
        ("xgb_bytes", "synced", CONDENSED),
    ],
)
def test_killed_again_and_again(whole, run, resume, apps, monkeypatch, app, step, options):
    """In each life at the same step of writing an entry, which is one of the first of that life.

    Or, until somebody looks, at the same step of condensing the journal.
    """
    words = ("--clients", "4", *options)
    wanted = whole(apps / app, *words)
    condensing = step.startswith("condens")
    at = f"journal.{step}:{1 if condensing else 9 if options is CONDENSED else 3}"
    monkeypatch.setenv("FEDKUBE_FAILPOINT", at)
    ran = run(apps / app, "--seed", "5", *words)
    code = ran.code
    for _ in range(5):
        if code == 4:  # killed too often for the launcher
            code = resume(ran.folder, "" if condensing else at).returncode
    assert code == 0, ran.text
    assert "it goes on from what it has committed" in ran.log
    if options is CONDENSED and step != "condensing":
        assert "are behind, and not repeated" in ran.log
    assert ran.record.model == wanted.record.model or (
        ran.record.model.sha256 == wanted.record.model.sha256
    )
    assert ran.result == wanted.result
    assert _told(ran) == _told(wanted)
    assert not (ran.folder / "journal").exists()


def test_what_does_not_change_is_in_the_journal_once_and_comes_back(whole, run, apps, monkeypatch):
    words = (apps / "echo", "--clients", "2", "--keep-journal", *ADAPTERS)
    wanted = whole(*words)
    model = 1_000_000
    assert model < (wanted.folder / "journal").stat().st_size < model * 1.3
    monkeypatch.setenv("FEDKUBE_FAILPOINT", "journal.torn:3")
    ran = run(*words, "--seed", "5")
    assert ran.code == 0, ran.text
    assert ran.log.count("it goes on from what it has committed") == 2
    assert ran.record.model.sha256 == wanted.record.model.sha256


def _told(ran):
    """What the histories say apart from times and bytes: no round twice, no client twice."""
    return [
        (
            each.round,
            each.server,
            {
                name: (phase.asked, sorted(phase.clients), phase.failures, phase.metrics)
                for name, phase in each.phases.items()
            },
        )
        for each in ran.rounds
    ]


def test_every_strategy_of_flowers(whole, run, resume, apps, monkeypatch):
    """Momenta, clips and noise included: the app runs them all, and is killed in the midst.

    It compares each with what plain Flower makes of it.
    """
    words = (apps / "strategies", "--clients", "7")
    wanted = whole(*words)
    monkeypatch.setenv("FEDKUBE_FAILPOINT", "journal.synced:40")
    ran = run(*words, "--seed", "5")
    assert ran.code == 0, ran.text
    assert ran.log.count("it goes on from what it has committed") == 2
    assert ran.result == wanted.result
    assert ran.record.model.sha256 == wanted.record.model.sha256


@pytest.mark.parametrize("step", ["begun", "synced"])
def test_a_journal_in_an_object_store(whole, run, resume, apps, monkeypatch, s3, step):
    words = ("--clients", "4", "--journal", "s3://bucket/journals")
    wanted = whole(apps / "message_api", *words)
    assert not s3.objects, "nobody needs it any more"
    monkeypatch.setenv("FEDKUBE_FAILPOINT", f"journal.{step}:2")
    ran = run(apps / "message_api", "--seed", "5", *words)
    if ran.code == 4:  # killed too often for the launcher
        assert {key.rpartition("/")[0] for key in s3.objects} == {
            f"bucket/journals/{ran.record.run_id}"
        }
        assert resume(ran.folder).returncode == 0
    assert "it goes on from what it has committed" in ran.log
    assert ran.record.model.sha256 == wanted.record.model.sha256
    assert _told(ran) == _told(wanted)
    assert not s3.objects
    assert not (ran.folder / "journal").exists()


def test_a_store_that_is_away_for_a_while(begin, apps, s3):
    running = begin(
        apps / "misbehave", "--clients", "2", "--journal", "s3://bucket/journals",
        "-c", "sleep=0.3 num-server-rounds=4",
    )  # fmt: skip
    running.await_that(lambda: len(RunFolder(running.folder).read_history()) >= 1, "round")
    s3.down = True
    running.await_line("the run waits: s3://bucket/journals/")
    s3.down = False
    ran = running.wait()
    assert ran.code == 0, ran.text
    assert "the run goes on: s3://bucket/journals/" in ran.log


def test_a_server_whose_run_goes_on_elsewhere_ends_and_touches_nothing(begin, apps, s3, tmp_path):
    running = begin(
        apps / "misbehave", "--clients", "2", "--journal", "s3://bucket/journals",
        "-c", "sleep=0.3 num-server-rounds=50",
    )  # fmt: skip
    running.await_that(lambda: len(RunFolder(running.folder).read_history()) >= 1, "round")
    there = f"s3://bucket/journals/{RunFolder(running.folder).read_record().run_id}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    log = ObjectLog.at(there, elsewhere)
    ran = running.wait(timeout=20)
    assert ran.code == 5, ran.text
    assert "another server has taken over" in ran.log
    assert not (ran.folder / "model.safetensors").exists()
    log.append([memoryview(b"still the successor's")])


def test_a_run_folder_that_is_lost_but_for_its_orders(begin, whole, resume, apps, s3, tmp_path):
    """As a pod finds it whose disk is new."""
    words = ("--clients", "4", "--journal", "s3://bucket/journals")
    options = ("-c", "sleep=0.3 num-server-rounds=3")
    wanted = whole(apps / "misbehave", *words, *options)
    running = begin(apps / "misbehave", "--seed", "5", *words, *options)
    running.await_that(lambda: len(RunFolder(running.folder).read_history()) >= 1, "round")
    running.process.send_signal(signal.SIGINT)
    stopped = running.wait()
    folder = RunFolder.create(tmp_path / "new")
    folder.write_record(stopped.record)
    assert resume(folder.path).returncode == 0
    assert "going on: 4 replies of earlier are there" in (folder.path / "log.txt").read_text()
    assert folder.read_record().model.sha256 == wanted.record.model.sha256


@pytest.mark.parametrize("app", ["echo", "misbehave", "own_loop", "stateful"])
@pytest.mark.parametrize("version", sorted(each.name for each in JOURNALS.glob("*/")))
def test_a_run_of_an_earlier_version(resume, apps, tmp_path, version, app):
    """Its clients are asked nothing: what an app sends is known by the digests of then."""
    folder = RunFolder.create(tmp_path / "run")
    shutil.copy(JOURNALS / version / app / "journal", folder.path)
    shutil.copy(JOURNALS / version / app / "run.json", folder.path)
    record = folder.read_record()
    wanted = record.model
    record.state, record.model, record.spec.app = RunState.FAILED, None, str(apps / app)
    folder.write_record(record)
    assert resume(folder.path).returncode == 0
    log = (folder.path / "log.txt").read_text()
    assert "replies of earlier are there" in log
    assert "does not do what it did before" not in log
    done = folder.read_record()
    assert done.bytes_up < 100, "no reply came; a worker may have said that it is free"
    assert (done.model and done.model.sha256) == (wanted and wanted.sha256)


def test_a_run_without_a_journal(run, resume, apps, monkeypatch):
    monkeypatch.setenv("FEDKUBE_FAILPOINT", "journal.begun:1")
    done = run(apps / "message_api", "--clients", "2", "--journal", "off")
    assert done.code == 0, "it writes none"
    running = run(apps / "server_raises", "--clients", "2", "--journal", "off", out="raised")
    assert running.code == 4
    refused = resume(running.folder)
    assert refused.returncode == 2
    assert "it was begun with --journal off" in refused.stderr


def test_a_run_that_was_stopped_goes_on(begin, whole, resume, apps):
    options = ("--clients", "4", "-c", "sleep=0.3 num-server-rounds=3")
    wanted = whole(apps / "misbehave", *options)
    running = begin(apps / "misbehave", "--seed", "5", *options)
    running.await_that(lambda: len(RunFolder(running.folder).read_history()) >= 1, "round")
    running.process.send_signal(signal.SIGINT)
    stopped = running.wait()
    assert stopped.record.state == "Stopped"
    before = stopped.rounds[0]
    done = resume(running.folder, "", "--json")
    assert done.returncode == 0, done.stderr
    assert stopped.record.model.sha256 == wanted.record.model.sha256
    assert stopped.rounds[0] == before, "the round is what it was, its times and bytes included"
    # Numbers on the wire are as long as they are large, so it is not the same to the byte.
    assert stopped.record.bytes_up > 0.95 * wanted.record.bytes_up


def test_a_killed_launcher(begin, resume, ends, apps):
    running = begin(apps / "misbehave", "--clients", "4", "-c", "sleep=0.3 num-server-rounds=10")
    running.await_that(lambda: len(RunFolder(running.folder).read_history()) >= 1, "round")
    family = list(running.family())
    refused = resume(running.folder)
    assert refused.returncode == 2
    assert "the run is going on" in refused.stderr
    running.process.kill()
    assert ends(family, 10)
    assert resume(running.folder).returncode == 0


def test_what_cannot_go_on(whole, resume, apps, tmp_path):
    done = whole(apps / "message_api", "--clients", "2")
    again = resume(done.folder)
    assert again.returncode == 2
    assert "has ended well" in again.stderr
    nowhere = resume(tmp_path / "nowhere")
    assert nowhere.returncode == 2
    assert "there is no run in" in nowhere.stderr

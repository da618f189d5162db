"""Servers that are killed where they write their journal, and runs that go on to the same model."""

import signal

import pytest

from fedkube.store.run_folder import RunFolder

STEPS = ("journal.begun", "journal.torn", "journal.written", "journal.synced")


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
    ("app", "options"),
    [
        ("message_api", ()),
        ("message_api", ("--workers", "1")),  # whose worker sums for itself
        ("own_loop", ()),
        ("stateful", ()),
        ("numpy_client", ()),
        ("legacy_workflow", ()),
        ("secagg", ()),
        ("custom_strategy", ()),
        ("xgb_bytes", ()),
    ],
)
def test_killed_again_and_again(whole, run, resume, apps, monkeypatch, app, options):
    """In each life at another step of writing an entry, which is the third of that life."""
    words = ("--clients", "4", *options)
    wanted = whole(apps / app, *words)
    monkeypatch.setenv("FEDKUBE_FAILPOINT", f"{STEPS[0]}:3")
    ran = run(apps / app, "--seed", "5", *words)
    assert ran.code == 4, ran.text
    lives, done = 1, None
    while done is None or done.returncode:
        assert done is None or done.returncode == 4, done.stdout + done.stderr
        assert lives < 30
        done = resume(ran.folder, f"{STEPS[lives % 4]}:3")
        lives += 1
    assert lives > 1
    assert ran.record.state == "Succeeded"
    assert ran.record.model == wanted.record.model or (
        ran.record.model.sha256 == wanted.record.model.sha256
    )
    assert _told(ran) == _told(wanted)
    assert not (ran.folder / "journal").exists()


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
    monkeypatch.setenv("FEDKUBE_FAILPOINT", "journal.synced:60")
    ran = run(*words, "--seed", "5")
    assert ran.code == 4, ran.text
    assert resume(ran.folder).returncode == 0
    assert ran.result == wanted.result
    assert ran.record.model.sha256 == wanted.record.model.sha256


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
    assert stopped.record.bytes_up >= wanted.record.bytes_up


def test_a_killed_launcher(begin, resume, ends, apps):
    running = begin(apps / "misbehave", "--clients", "4", "-c", "sleep=0.3 num-server-rounds=3")
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

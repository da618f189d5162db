"""Updates that come when their round is closed: they count in the round in which they come."""

import math
import signal
import statistics

import pytest
from late_updates import asked_in, late_of, moved

from fedkube.store.run_folder import RunFolder

# Of five clients, four are waited for; the first takes as long as several rounds.
LATE = (
    *("--clients", "5", "--workers", "5"),
    *("--cohort", "fraction=0.8 over-selection=1.25 late=fold"),
)


@pytest.mark.parametrize("compression", ["none", "int8"])
def test_a_late_update_counts_by_its_staleness(run, apps, compression):
    ran = run(
        apps / "stragglers",
        *(*LATE, "--compression", compression, "-c", "num-server-rounds=8"),
    )
    assert ran.code == 0, ran.text
    assert len(ran.rounds) == 8
    assert any(late.client == 0 for late in late_of(ran.rounds))
    assert ran.result["equal"]
    assert ran.result["mean"] == pytest.approx(moved(ran.rounds), rel=1e-4)
    for each in ran.rounds:
        phase = each.phases["train"]
        fresh = phase.asked - len(phase.failures)
        assert fresh + len(phase.stale) >= 4, "a round is closed by as many as were wanted"
    usual = statistics.median(each.seconds for each in ran.rounds)
    assert usual < 1, "nobody has waited for the slow one"
    asked = asked_in(ran.rounds)
    assert len(set(asked)) == len(asked), "each counts once"


def test_a_client_that_is_busy_is_not_asked_not_even_to_evaluate(run, apps):
    ran = run(
        apps / "stragglers",
        *(*LATE, "-c", "num-server-rounds=5 fraction-evaluate=1.0 slow-seconds=2.0"),
    )
    assert ran.code == 0, ran.text
    reasons = {
        name: {
            failure.reason
            for each in ran.rounds
            for failure in each.phases[name].failures
            if failure.client == 0
        }
        for name in ("train", "evaluate")
    }
    busy = "not asked: the client is still at its message of round "
    for name in ("train", "evaluate"):
        assert any(each.startswith(busy) for each in reasons[name])
    late = "its update counts in the round in which it comes"
    assert any(late in each for each in reasons["train"])
    assert statistics.median(each.seconds for each in ran.rounds) < 2


@pytest.mark.parametrize("strategy", ["FedAdam", "FedAvgM", "FedProx"])
def test_strategies_that_take_the_mean(run, apps, strategy):
    ran = run(apps / "stragglers", *LATE, "-c", f"num-server-rounds=10 strategy={strategy}")
    assert ran.code == 0, ran.text
    assert late_of(ran.rounds)
    assert math.isfinite(ran.result["mean"])


def test_too_late_is_too_late(run, apps):
    ran = run(
        apps / "stragglers",
        *("--clients", "5", "--workers", "5", "-c", "num-server-rounds=8 slow-seconds=1.5"),
        *("--cohort", "fraction=0.8 over-selection=1.25 late=fold max-staleness=2"),
    )
    assert ran.code == 0, ran.text
    assert all(late.rounds <= 2 for late in late_of(ran.rounds))
    assert ran.result["mean"] == pytest.approx(moved(ran.rounds), rel=1e-5)


def test_a_deadline_closes_the_round_and_who_is_late_counts_later(run, apps):
    ran = run(
        apps / "stragglers",
        *("--clients", "2", "--workers", "2", "--cohort", "deadline-seconds=8 late=fold"),
        *("-c", "num-server-rounds=5 slow=1 seconds=3.0 slow-seconds=8.0"),
    )
    assert ran.code == 0, ran.text
    assert "deadline of 8 s; its update counts" in ran.rounds[0].phases["train"].failures[0].reason
    assert 0 in [late.client for late in late_of(ran.rounds)]
    assert ran.result["mean"] == pytest.approx(moved(ran.rounds), rel=1e-5)


def test_a_deadline_that_is_too_short_for_everybody(run, apps):
    """Each round takes what there is first, be it its own or late; none is of nothing."""
    ran = run(
        apps / "stragglers",
        *("--clients", "2", "--workers", "2", "--cohort", "deadline-seconds=0.2 late=fold"),
        *("-c", "num-server-rounds=5 slow=1 seconds=0.6 slow-seconds=1.5"),
    )
    assert ran.code == 0, ran.text
    assert len(ran.rounds) == 5
    for each in ran.rounds:
        phase = each.phases["train"]
        assert phase.asked - len(phase.failures) + len(phase.stale) >= 1
    assert ran.result["mean"] == pytest.approx(moved(ran.rounds), rel=1e-5)


@pytest.mark.parametrize("step", ["begun", "torn", "written", "synced"])
def test_a_server_that_is_killed_goes_on_with_what_was_committed(run, apps, monkeypatch, step):
    """Each life is killed at its third entry; the model is what the history of all of them says."""
    monkeypatch.setenv("FEDKUBE_FAILPOINT", f"journal.{step}:3")
    ran = run(apps / "stragglers", *LATE, "-c", "num-server-rounds=12")
    assert ran.code == 0, ran.text
    assert "it goes on from what it has committed" in (ran.folder / "log.txt").read_text()
    assert len(ran.rounds) == 12
    assert ran.result["mean"] == pytest.approx(moved(ran.rounds), rel=1e-5)


def test_a_run_that_was_stopped_goes_on(begin, fedkube, apps):
    running = begin(apps / "stragglers", *LATE, "-c", "num-server-rounds=20")
    folder = RunFolder(running.folder)
    running.await_that(lambda: late_of(folder.read_history()), "late update")
    running.process.send_signal(signal.SIGINT)
    running.wait()
    before = folder.read_history()
    done = fedkube("resume", str(running.folder), "--no-progress")
    assert done.returncode == 0, done.stderr
    after = folder.read_history()
    assert late_of(before)
    assert after[: len(before) - 1] == before[:-1]
    assert len(after) == 20


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("own_loop", "the app has a loop of its own"),
        ("numpy_client", "the app uses Flower's older API"),
        ("misbehave", "the strategy CountingFedAvg needs the update of every client"),
    ],
)
def test_what_cannot_take_late_updates_is_told(run, apps, app, why):
    cohort = (
        "over-selection=1.5 late=fold" if app == "numpy_client" else "deadline-seconds=9 late=fold"
    )
    failed = run(apps / app, "--clients", "4", "--cohort", cohort)
    assert failed.code == 3, failed.text
    assert why in failed.text
    assert "leave out the cohort's late" in failed.text


def test_that_nothing_can_be_late_is_told(run, apps):
    refused = run(apps / "stragglers", "--clients", "4", "--cohort", "late=fold")
    assert refused.code == 2
    assert "nothing is ever late" in refused.text
    assert not refused.folder.exists()

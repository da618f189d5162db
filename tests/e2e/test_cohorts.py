"""Who takes part in a round, and when it is closed, for apps that know nothing of it."""

import pytest


def test_a_fraction_of_the_clients_is_asked_in_either_api(run, apps):
    done = run(apps / "numpy_client", "--clients", "6", "--cohort", "fraction=0.5")
    assert done.result["fit-clients"] == 3
    assert done.result["evaluate-clients"] == 6, "evaluation is the strategy's"
    done = run(apps / "message_api", "--clients", "6", "--cohort", "fraction=0.5", out="run-2")
    assert {each.phases["train"].asked for each in done.rounds if each.round} == {3}


def test_the_round_is_closed_when_enough_have_answered(run, apps):
    """One of four hangs for ever; three are wanted."""
    hang = ("-c", "mode=hang culprit=1 at-round=0 num-server-rounds=2")
    cohort = ("--cohort", "fraction=0.75 over-selection=1.3")
    done = run(apps / "misbehave", "--clients", "4", "--workers", "2", *hang, *cohort)
    assert done.code == 0, done.text
    for each in done.rounds:
        if each.round:
            assert sorted(each.phases["train"].clients) == [0, 2, 3]
            (failure,) = each.phases["train"].failures
            assert (failure.client, "not needed" in failure.reason) == (1, True)
            assert not failure.needed
    assert done.result["final-mean"] == pytest.approx(2)


def test_the_deadline_closes_the_round_and_the_minimum_is_kept(run, apps):
    hang = ("-c", "mode=hang culprit=1 at-round=0 num-server-rounds=2")
    few = ("--cohort", "deadline-seconds=15 minimum=3")
    done = run(apps / "misbehave", "--clients", "4", "--workers", "2", *hang, *few)
    assert done.code == 0, done.text
    assert done.result["final-mean"] == pytest.approx(2)
    assert all("deadline of 15 s" in reason for _, _, reason in done.failures())
    all_of_them = ("--cohort", "deadline-seconds=15 minimum=4")
    failed = run(
        *(apps / "misbehave", "--clients", "4", "--workers", "2", *hang, *all_of_them), out="run-2"
    )
    assert failed.code == 4
    assert "3 of the 4 clients of a round answered, and cohort.minimum is 4" in failed.text


def test_an_app_that_chooses_its_clients_itself_is_told(run, apps):
    failed = run(apps / "own_loop", "--clients", "4", "--cohort", "fraction=0.5")
    assert failed.code == 3
    assert "the app chooses them in a way of its own" in failed.text


def test_a_cohort_that_cannot_be_is_refused(run, apps):
    refused = run(apps / "own_loop", "--clients", "4", "--cohort", "minimum=5")
    assert refused.code == 2
    assert "cohort.minimum is 5, and the run has 4 clients" in refused.text
    assert not refused.folder.exists()

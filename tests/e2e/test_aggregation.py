"""Which updates are summed on the way, and what an app may state of it."""

import pytest


def test_a_metrics_function_of_the_apps_own_sees_every_update(run, apps):
    done = run(apps / "own_metrics", "--clients", "4", "--workers", "2")
    assert done.result == {"means": [0.0, 1.0, 2.0, 3.0], "model": 3.0}


def test_where_the_app_states_a_mean_its_updates_are_summed(run, apps):
    """And a function that looks at them is told how to get them."""
    stated = ("-c", 'fedkube-aggregation="mean"')
    done = run(apps / "own_metrics", "--clients", "4", "-c", "look=false", *stated)
    assert done.result["model"] == 3.0
    failed = run(apps / "own_metrics", "--clients", "4", *stated, out="run-2")
    assert failed.code == 3
    assert "the updates were summed as they came" in failed.text
    assert 'fedkube-aggregation = "every-update"' in failed.text


def test_an_app_that_states_a_mean_and_leaves_updates_out_is_told(run, apps):
    kept = run(apps / "own_metrics", "--clients", "4", "-c", "look=false drop=true")
    assert kept.code == 0, "its own aggregation is given every update"
    config = 'look=false drop=true fedkube-aggregation="mean"'
    failed = run(apps / "own_metrics", "--clients", "4", "-c", config, out="run-2")
    assert "3 updates are to be averaged, and 4 were summed" in failed.text


def test_a_strategy_that_needs_every_update_cannot_do_with_a_mean(run, apps):
    config = 'fedkube-aggregation="mean"'
    failed = run(apps / "strategies", "--clients", "7", "-c", config)
    assert failed.code == 3
    assert "the strategy Bulyan needs the update of every client" in failed.text


def test_what_cannot_be_stated(run, apps):
    config = 'fedkube-aggregation="median"'
    failed = run(apps / "own_metrics", "-c", config)
    assert failed.code == 3
    assert "the run config's fedkube-aggregation is 'median'" in failed.text
    assert '"mean" or "every-update"' in failed.text


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_what_nobody_changes_travels_once(run, apps, workers):
    """A model of 100 arrays of which clients change one: adapters on a frozen network."""
    done = run(
        apps / "echo",
        *("--clients", "4", "--workers", str(workers)),
        *("-c", "change=true changed-tensors=1 tensors=100 megabytes=10.0"),
    )
    model = done.result["model-bytes"]
    phases = [each.phases["train"] for each in done.rounds if each.round]
    one_per_cent = 0.01 * 4 * model
    assert all(phase.bytes_up < 3 * one_per_cent for phase in phases)
    # A worker gets the whole model with its first client, in whichever round that is.
    whole = sum(phase.bytes_down for phase in phases) - 3 * len(phases) * one_per_cent
    assert whole <= workers * model
    assert done.result["max-difference"] == pytest.approx(3.0)


def test_every_update_of_a_model_that_lands_in_files_can_be_kept(run, apps):
    """Four clients with 25 MB each: more than the server takes into memory."""
    kept = ("-c", 'fedkube-aggregation="every-update" megabytes=25.0 tensors=5 change=true')
    done = run(apps / "echo", "--clients", "4", "--workers", "2", *kept)
    assert done.result["max-difference"] == pytest.approx(3.0, abs=1e-5)

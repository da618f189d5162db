"""Flower's own SecAgg+, whose clients drop out: the exact sum of who is left, or nothing at all."""

import pytest

STAGES = ("setup", "share_keys", "collect_masked_vectors", "unmask")
SIX = ("--clients", "6", "--workers", "2", "--seed", "5")


def mean_step(clients):
    """Client n adds n to the model, and weighs n."""
    return sum(each * each for each in clients) / sum(clients)


@pytest.fixture
def losses(run, apps):
    """The model's mean before the first round and after each; what the run printed."""

    def of(stage, dropouts):
        config = (
            f'num-server-rounds=2 own-steps=true num-shares=6 threshold=3 stage="{stage}" '
            f"dropouts={dropouts}"
        )
        ran = run(apps / "secagg", *SIX, "-c", config, out=f"{stage}-{dropouts}")
        assert ran.code == 0, ran.text
        return ran.result["central-losses"], ran.log

    return of


def test_who_stays_is_summed(losses):
    step = mean_step(range(1, 7))
    got, log = losses("", 0)
    assert got == pytest.approx([0, step, 2 * step], abs=0.01)
    assert log.count("hides nothing from this server") == 1, "and it is said what that is worth"


@pytest.mark.parametrize("stage", STAGES)
def test_a_third_drops_out(losses, stage):
    """Whose masked update has come counts, though its client is gone when it is unmasked.

    Of clients that go before they have shared their keys, Flower's protocol cannot recover what it
    needs where all are each other's neighbours: it gives up, and releases nothing.
    """
    left = range(1, 7) if stage == "unmask" else range(3, 7)
    step = mean_step(left)
    got, log = losses(stage, 2)
    assert log.count("drops out") >= 4, "both of them, in both rounds"
    if stage in ("setup", "share_keys"):
        assert got == [0, 0, 0]
        assert log.count("Secure aggregation halted") == 2
    else:
        assert got == pytest.approx([0, step, 2 * step], abs=0.01)


@pytest.mark.parametrize("stage", STAGES)
def test_more_drop_out_than_the_threshold_allows(losses, stage):
    """Nothing is released: the model is what it was."""
    got, log = losses(stage, 4)
    assert got == [0, 0, 0]
    assert "Secure aggregation halted" in log
    assert "Secure aggregation completed" not in log

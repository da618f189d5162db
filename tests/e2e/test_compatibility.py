"""Flower apps of every shape, unmodified, give what Flower's documentation promises."""

import math

import pytest

CLIENTS = 4


@pytest.fixture
def result(run, apps):
    def of(app: str, *options: str) -> dict:
        ran = run(apps / app, "--clients", str(CLIENTS), "--seed", "7", *options)
        assert ran.code == 0, ran.text
        return ran.result

    return of


def test_message_api(result):
    got = result("message_api")
    assert got["replies"] == got["node-ids-match"] == got["run-ids-match"] == CLIENTS
    assert got["partition-ids"] == list(range(CLIENTS))
    assert got["num-partitions"] == [CLIENTS]
    assert got["train-rounds"] == [1, 2, 3, 4]
    assert got["weight-error"] < 0.01


def test_mods_run_in_order(result):
    got = result("mods")
    assert (got["train-trace-in"], got["train-trace-out"]) == (123, 321)
    assert (got["evaluate-trace-in"], got["evaluate-trace-out"]) == (124, 421)
    assert got["model-norm"] == pytest.approx(4.0)


def test_numpy_client_and_server_fn(result):
    got = result("numpy_client")
    step = (2 * CLIENTS + 1) / 3
    assert got["central-means"] == pytest.approx([7 + step * i for i in range(4)])
    assert got["shapes-kept"] is True
    assert got["fit-clients"] == got["evaluate-clients"] == CLIENTS


def test_legacy_context_and_default_workflow(result):
    got = result("legacy_workflow")
    assert got["central-losses"] == pytest.approx([0, 1, 2, 3])
    assert got["distributed-losses"] == pytest.approx([1, 2, 3])


def test_flowers_own_secure_aggregation(result):
    got = result("secagg")
    assert got["central-losses"] == pytest.approx([0, 1, 2, 3], abs=0.01)


@pytest.mark.parametrize("workers", ["1", "3"])
def test_state_stays_with_its_client_whichever_worker_serves_it(result, workers):
    got = result("stateful", "--workers", workers)
    assert (got["min-calls"], got["max-calls"], got["mismatches"]) == (4, 4, 0)
    assert got["checksum"] == 8 * (CLIENTS * (CLIENTS + 1) / 2) * (4 * 5 / 2)


def test_loop_without_a_strategy(result):
    got = result("own_loop")
    agree = [key for key in got if key.endswith("-agree")]
    assert agree
    assert all(got[key] for key in [*agree, "list-types-kept"])
    assert got["model-mean"] == got["probe-mean"] == 3 * (CLIENTS - 1) / 2
    assert got["client-ttl"] == 300
    assert got["float-sum"] == CLIENTS**2 / 2


def test_models_that_are_bytes(result):
    got = result("xgb_bytes")
    assert got["trees"] == got["declared-trees"] == 3 * CLIENTS
    assert got["leaf-sum"] == 3 * CLIENTS * (CLIENTS + 1) / 2
    assert got["ids-in-order"] is True


def test_strategy_with_its_own_round_loop(result):
    got = result("custom_strategy")
    assert got["best-round"] == 3
    assert got["last-loss"] == pytest.approx(2.0)
    assert math.isclose(got["best-loss"], 0.0, abs_tol=1e-6)


def test_lifespans(result):
    got = result("lifespan")
    assert got["server-events"] == ["enter", "main", "exit"]
    assert got["client-entered"] == [1, 2, 3]
    assert got["client-exited"] == [0, 1, 2]


def test_arrays_come_back_as_they_went(result):
    got = result("echo", "-c", "megabytes=3.0 tensors=7")
    assert got["max-difference"] < 1e-6
    assert got["model-bytes"] == pytest.approx(3e6, rel=0.01)


def test_every_message_strategy_equals_flowers_own(run, apps):
    """With every update kept, to the bit: what Flower averages is what it would be given there."""
    kept = ("-c", 'fedkube-aggregation="every-update"')
    got = run(apps / "strategies", "--clients", "7", *kept).result
    assert len(got) == 18
    for name, compared in got.items():
        assert compared["same-bytes"], (name, compared)
        assert compared["same-metrics"], name
        assert (compared["rounds"], compared["elements"] > 0) == (3, True), name


def test_means_that_were_summed_on_the_way_are_flowers_to_rounding(run, apps):
    got = run(apps / "strategies", "--clients", "7").result
    assert len(got) == 18
    for name, compared in got.items():
        assert compared["difference"] < 1e-6, (name, compared)
        assert (compared["rounds"], compared["elements"] > 0) == (3, True), name
    # Strategies that need every update got every update.
    for name in ("Krum", "MultiKrum", "Bulyan", "FedMedian", "FedTrimmedAvg", "QFedAvg"):
        assert got[name]["same-bytes"], name


def test_every_legacy_strategy_equals_flowers_own(run, apps):
    kept = ("-c", 'fedkube-aggregation="every-update"')
    got = run(apps / "legacy_strategies", "--clients", "7", *kept).result
    assert len(got) == 22, "all but FedXgbNnAvg, whose parameters no message can carry"
    for name, compared in got.items():
        same = {each: compared[each] for each in ("same-bytes", "same-history", "moved")}
        assert all(same.values()), (name, compared)


def test_legacy_means_that_were_summed_on_the_way_are_flowers_to_rounding(run, apps):
    got = run(apps / "legacy_strategies", "--clients", "7").result
    assert len(got) == 22
    for name, compared in got.items():
        assert compared["moved"], name
        assert compared["difference"] < 1e-6, (name, compared)

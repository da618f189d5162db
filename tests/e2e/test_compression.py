"""Whole runs whose updates are compressed."""

import pytest

CHANGED = "megabytes=4.0 tensors=10 num-server-rounds=3 change=true changed-tensors=0"


@pytest.mark.parametrize(("kind", "share"), [("bf16", 0.5), ("int8", 0.25)])
def test_so_many_fewer_bytes_come(run, apps, kind, share):
    done = run(
        *(apps / "echo", "--clients", "2", "--workers", "2", "-c", CHANGED),
        *("--compression", kind, "--json"),
    )
    assert done.code == 0, done.text
    assert done.record.spec.compression == kind
    model = done.result["model-bytes"]
    for each in done.rounds:
        if each.round:
            assert each.phases["train"].bytes_up == pytest.approx(2 * share * model, rel=0.01)
    # One was added to each value three times.
    assert done.result["max-difference"] == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_every_strategy_of_flowers_makes_of_them_what_it_should(run, apps, kind):
    """Compared with Flower's own grid, whose updates are not compressed."""
    # With other seeds, those that choose some of the updates may choose others where two are alike.
    same = ("--clients", "7", "--seed", "3")
    done = run(apps / "strategies", *same, "--compression", kind, timeout=180)
    assert done.code == 0, done.text
    rounded = 0
    for name, each in done.result.items():
        assert each["rounds"] == 3, name
        assert each["difference"] < (0.01 if kind == "int8" else 0.003), name
        if "Xgb" in name:  # trees are no floats
            assert each["same-bytes"], name
        rounded += each["difference"] > 1e-6
    assert rounded > len(done.result) / 2, "nothing was rounded"


def test_a_kind_that_there_is_not_is_refused_before_anything_is_made(run, apps):
    refused = run(apps / "echo", "--compression", "int4")
    assert refused.code == 2
    assert "'int4' is not one of 'none', 'bf16'" in refused.text
    assert not refused.folder.exists()

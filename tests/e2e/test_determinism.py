"""Same seed, same final model: twice, with one worker and with several."""

import pytest


@pytest.fixture
def digest(run):
    def of(app, *options, out):
        ran = run(app, "--json", *options, out=out)
        assert ran.code == 0, ran.text
        return ran.json["model"]["sha256"]

    return of


def test_digits_on_torch(digest, examples):
    short = ("--clients", "6", "-c", "num-server-rounds=2 fraction-train=0.5")
    digits = examples / "digits"
    first = digest(digits, *short, "--seed", "5", "--workers", "2", out="a")
    assert digest(digits, *short, "--seed", "5", "--workers", "1", out="b") == first
    assert digest(digits, *short, "--seed", "6", "--workers", "1", out="c") != first


@pytest.mark.parametrize("app", ["message_api", "numpy_client", "legacy_workflow"])
def test_numpy_apps_of_both_apis(digest, apps, app):
    models = {
        digest(apps / app, "--clients", "5", "--seed", "9", "--workers", workers, out=f"{number}")
        for number, workers in enumerate(("1", "2", "4", "4"))
    }
    assert len(models) == 1


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_compressed_updates(digest, apps, kind):
    """Whether workers sum or not, which is decided by what is fewer bytes, and through relays."""
    same = (apps / "message_api", "--clients", "10", "--seed", "9")
    models = {
        digest(*same, "--compression", kind, *workers, out="".join(workers))
        for workers in (
            ("--workers", "1"),
            ("--workers", "4"),
            ("--workers", "2", "--relays", "2"),
        )
    }
    assert len(models) == 1


def test_compressed_updates_on_torch(digest, examples):
    short = (examples / "digits", "--clients", "10", "--seed", "5", "-c", "num-server-rounds=2")
    models = {
        digest(*short, "--compression", "int8", "--workers", workers, out=f"w{workers}")
        for workers in ("1", "3")
    }
    assert len(models) == 1
    assert models != {digest(*short, "--workers", "1", out="plain")}, "nothing was rounded"

"""Relays between server and workers: the same model, bit for bit, and the same guarantees."""

import json
import os
import signal
from collections import Counter

import pytest

SLOW = ("-c", "sleep=0.6 num-server-rounds=2")


@pytest.mark.parametrize(
    ("app", "how_many"),
    [
        ("message_api", ("0", "1", "2")),
        ("numpy_client", ("0", "2")),
        ("strategies", ("0", "2")),  # each that Flower ships, Krum and the medians among them
    ],
)
def test_the_same_model_whatever_the_number_of_relays(run, apps, app, how_many):
    models = set()
    for relays in how_many:
        ran = run(
            apps / app,
            *("--clients", "7", "--seed", "9", "--workers", "4", "--relays", relays, "--json"),
            out=f"r{relays}",
        )
        assert ran.code == 0, ran.text
        models.add(ran.json["model"]["sha256"])
    assert len(models) == 1


def test_what_clients_keep_goes_through(run, apps):
    ran = run(apps / "stateful", "--clients", "6", "--workers", "2", "--relays", "2")
    assert ran.code == 0, ran.text
    rounds = len(ran.rounds)
    assert ran.result["min-calls"] == ran.result["max-calls"] == rounds
    assert ran.result["mismatches"] == 0


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("raise", "deliberate failure of the ClientApp"),
        ("exit", "ended by itself, with exit code 3"),
        ("sigkill", "given up after 3 tries"),
        ("nan", "NaN or infinity"),
        ("no-weight", "its metrics lack 'num-examples'"),
        ("garbage", "its bytes are not"),
    ],
)
def test_a_client_that_fails_fails_alone(run, apps, mode, reason):
    ran = run(
        apps / "misbehave",
        *("--clients", "4", "--workers", "2", "--relays", "1", "-c", f'mode="{mode}"'),
    )
    assert ran.code == 0, ran.text
    [(round_number, client, why)] = ran.failures()
    assert (round_number, client) == (1, 0)
    assert reason in why
    assert why.count("given up after") <= 1, "it was tried again by the server, too"
    assert ran.result["final-mean"] == 3.0


def test_a_call_that_is_taken_back_leaves_its_worker(run, apps):
    ran = run(
        apps / "misbehave",
        *("--clients", "4", "--workers", "2", "--relays", "1"),
        *("-c", 'mode="spin" round-timeout=15.0'),
    )
    assert ran.code == 0, ran.text
    assert ran.result["replies"] == [3, 4, 4]


def test_a_client_module_that_does_not_import(run, apps):
    ran = run(apps / "import_error", "--workers", "2", "--relays", "2")
    assert ran.code == 3
    assert "ModuleNotFoundError" in ran.record.message


@pytest.fixture
def slow(begin, apps):
    """Six clients of 0.6 s each, seen when each worker is serving one in the first round."""

    def start():
        running = begin(
            apps / "misbehave",
            *("--clients", "6", "--workers", "2", "--relays", "2", "--json", *SLOW),
        )
        for number in range(2):
            running.await_line(f"worker-{number}  client ")
        return running

    return start


def counted_once(ran):
    assert ran.code == 0, ran.text
    assert ran.failures() == []
    assert ran.result["final-mean"] == 2.0
    return all(
        sorted(Counter(each.phases["train"].clients).items()) == [(n, 1) for n in range(6)]
        for each in ran.rounds
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_relay_that_dies_in_the_middle_of_a_round(slow, number):
    running = slow()
    [victim] = running.pids("--name relay-0")
    os.kill(victim, number)
    ran = running.wait()
    assert counted_once(ran)
    assert "relay-0 " in ran.log
    assert "starting it again" in ran.log


def test_a_worker_below_a_relay_that_dies(slow):
    running = slow()
    os.kill(running.pids("--name worker-0")[0], signal.SIGKILL)
    ran = running.wait()
    assert counted_once(ran)
    assert "worker-0 was killed (SIGKILL); starting it again" in ran.log


def test_ctrl_c_ends_all(slow, ends):
    running = slow()
    family = list(running.family())
    assert len(family) == 8, "launcher, server, two relays, two workers with an executor each"
    running.process.send_signal(signal.SIGINT)
    ran = running.wait(30)
    assert ran.record.state == "Stopped"
    assert ends(family, 5)


def test_a_killed_launcher_leaves_no_process(slow, ends):
    running = slow()
    family = list(running.family())
    running.process.kill()
    assert ends(family, 10)
    running.wait()


def test_less_arrives_at_the_server(run, apps):
    """The sums of four workers, or one: each takes two models, being exact."""
    arrived = []
    for relays in ("0", "1"):
        ran = run(
            apps / "echo",
            *("--clients", "24", "--workers", "4", "--relays", relays),
            *("-c", "change=true megabytes=4.0 tensors=4 num-server-rounds=8"),
            out=f"r{relays}",
        )
        assert ran.code == 0, ran.text
        assert ran.result["max-difference"] == pytest.approx(8.0, abs=1e-5)
        # In the first round workers come late, and whoever is there serves more.
        arrived.append(ran.rounds[-1].phases["train"].bytes_up / ran.result["model-bytes"])
    assert arrived[1] < 2.1 < 3.9 < arrived[0]


def test_more_relays_than_workers_is_an_error_of_usage(run, apps):
    ran = run(apps / "echo", "--clients", "4", "--workers", "2", "--relays", "3")
    assert ran.code == 2
    assert "--relays is 3, and there are 2 workers: each relay needs at least one" in ran.text


def test_the_result_says_the_same(run, apps):
    """Metrics of every client come through, whoever summed its arrays."""
    said = []
    for relays in ("0", "2"):
        ran = run(
            apps / "message_api",
            *("--clients", "5", "--seed", "3", "--workers", "3", "--relays", relays),
            out=f"r{relays}",
        )
        said.append(json.dumps(ran.result, sort_keys=True))
        assert [len(each.phases["train"].clients) for each in ran.rounds if each.round] == [5] * 4
    assert said[0] == said[1]

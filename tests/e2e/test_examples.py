"""Every example runs as its README says, and the run folder has all that it promises."""

import csv
import hashlib
import json

import safetensors.numpy

RESULT_KEYS = {
    "run_id", "state", "rounds", "clients", "metrics", "model", "duration_s", "bytes_up",
    "bytes_down", "server_peak_rss_bytes", "out",
}  # fmt: skip


def test_digits_reaches_its_accuracy_and_leaves_a_complete_folder(run, examples):
    ran = run(examples / "digits", "--clients", "10", "--seed", "1", "--json", timeout=120)
    assert ran.code == 0, ran.text
    result = ran.json
    assert set(result) >= RESULT_KEYS
    assert result["state"] == "Succeeded"
    assert result["metrics"]["server.accuracy"] >= 0.95
    assert result["duration_s"] < 110
    assert (result["rounds"], result["clients"]) == (20, 10)
    assert result["bytes_up"] > 0
    assert result["bytes_down"] > 0
    assert result["server_peak_rss_bytes"] > 50e6

    model = ran.folder / "model.safetensors"
    assert result["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    arrays = safetensors.numpy.load_file(model)
    assert sum(array.size for array in arrays.values()) > 1000
    newest = ran.folder / "checkpoints" / "round-000020.safetensors"
    assert newest.read_bytes() == model.read_bytes()
    assert len(list(newest.parent.iterdir())) == 3

    rounds = json.loads((ran.folder / "history.json").read_text())["rounds"]
    assert [each["round"] for each in rounds] == list(range(21))
    assert all(len(each["phases"]["train"]["clients"]) == 10 for each in rounds[1:])
    assert all(each["phases"]["train"]["bytes_up"] > 0 for each in rounds[1:])
    with (ran.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["server.accuracy"]) == result["metrics"]["server.accuracy"]
    assert (ran.folder / "metrics.png").read_bytes().startswith(b"\x89PNG")
    assert "[ROUND 20/20]" in ran.log
    record = json.loads((ran.folder / "run.json").read_text())
    assert record["spec"]["seed"] == 1
    assert record["versions"]["flwr"].startswith("1.41")


def test_breast_cancer_reaches_its_accuracy(run, examples):
    ran = run(examples / "breast-cancer", "--json", "--seed", "1")
    assert ran.code == 0, ran.text
    assert ran.json["metrics"]["server.accuracy"] >= 0.95


def test_analytics_gives_the_table_without_a_model(run, examples):
    ran = run(examples / "analytics", "--json", "--clients", "5")
    assert ran.code == 0, ran.text
    assert "178 rows from 5 clients" in ran.log
    assert ran.json["model"] is None
    assert all(set(each.phases) == {"query"} for each in ran.rounds)

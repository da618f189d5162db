from __future__ import annotations

import signal
import threading
import time

import pytest
from cluster_commands import a_disk, a_pod, a_run, an_event, condition
from fake_kubernetes import status

from fedkube.cli.cluster import pull, reader


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(pull, "_PAUSE_S", 0.01)
    monkeypatch.setattr(reader, "_PAUSE_S", 0.02)
    monkeypatch.setattr(reader, "_HINT_S", 0.05)
    monkeypatch.setattr(reader, "_START_S", 0.3)


@pytest.fixture
def disk(kubernetes, tmp_path):
    return a_disk(kubernetes, tmp_path / "disk")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_everything_that_a_run_has_left(kubernetes, fedkube, disk, tmp_path):
    out = tmp_path / "out"
    done = fedkube("pull", "digits", "--out", str(out))
    assert done.code == 0, done.err
    assert done.out == f"{out}\n", "cd $(fedkube pull RUN) works"
    assert names(out) == ["history.csv", "history.json", "log.txt", "model.safetensors", "run.json"]
    for name in names(out):
        assert (out / name).read_bytes() == disk[name]
    assert kubernetes.of("pods") == [], "the pod is gone"


@pytest.mark.parametrize(
    ("only", "there"),
    [
        ("model", ["model.safetensors"]),
        ("history", ["history.csv", "history.json", "run.json"]),
    ],
)
def test_a_part_of_it(kubernetes, fedkube, disk, tmp_path, only, there):
    out = tmp_path / "out"
    assert fedkube("pull", "digits", "--out", str(out), "--only", only).code == 0
    assert names(out) == there


def test_the_reader_is_where_the_server_was_and_fits_restricted(
    kubernetes, fedkube, disk, tmp_path
):
    made = []
    start = kubernetes.on_create
    kubernetes.on_create = lambda body: (made.append(body), start(body))
    for _ in range(2):
        assert fedkube("pull", "digits", "--out", str(tmp_path / "out")).code == 0
    first, second = made
    assert first["metadata"]["name"] != second["metadata"]["name"]
    spec = first["spec"]
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["volumes"] == [
        {"name": "run", "persistentVolumeClaim": {"claimName": "digits-run"}}
    ]
    (container,) = spec["containers"]
    assert container["image"] == "digits:1"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert first["metadata"]["ownerReferences"][0]["uid"] == "12345678-aaaa"


def test_several_pull_at_once(kubernetes, fedkube, disk, tmp_path):
    processes = [
        fedkube.begin("pull", "digits", "--out", str(tmp_path / f"out{n}")) for n in range(3)
    ]
    for n, process in enumerate(processes):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert (tmp_path / f"out{n}" / "run.json").read_bytes() == disk["run.json"]
    assert kubernetes.of("pods") == []


def test_a_connection_that_breaks_is_taken_up_where_it_was(
    kubernetes, fedkube, disk, quick, tmp_path
):
    kubernetes.cut_after = [0, 10**9, 0, 10**9, 10**9, 10**9, 10**9, 3000, 2000]
    out = tmp_path / "out"
    done = fedkube("pull", "digits", "--out", str(out))
    assert done.code == 0, done.err
    assert done.err.count("the connection broke") == 4
    assert (out / "model.safetensors").read_bytes() == disk["model.safetensors"]


def test_a_connection_that_always_breaks_ends_it_and_what_was_there_stays(
    kubernetes, fedkube, disk, quick, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"of an earlier pull")
    kubernetes.cut_after = [10**9, *[0] * 20]
    done = fedkube("pull", "digits", "--out", str(out))
    assert done.code == 5
    assert "the pod could not send run.json" in done.err
    assert names(out) == ["model.safetensors"], "nothing half done is left"
    assert (out / "model.safetensors").read_bytes() == b"of an earlier pull"
    assert kubernetes.of("pods") == []


def test_a_model_that_is_not_the_runs(kubernetes, fedkube, disk, tmp_path):
    model = tmp_path / "disk" / "digits-12345678" / "model.safetensors"
    model.write_bytes(b"x" * model.stat().st_size)
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "another digest than the run tells" in done.err
    assert names(tmp_path / "out") == []


def test_a_model_that_is_gone(kubernetes, fedkube, disk, tmp_path):
    (tmp_path / "disk" / "digits-12345678" / "model.safetensors").unlink()
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "has no model.safetensors" in done.err


def test_bytes_that_were_changed_on_the_way(kubernetes, fedkube, disk, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_SEND", reader._SEND + "\nprint('and more')")
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "came with another digest" in done.err
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (b'{"../../etc/passwd": [1, "ab"]}', "'../../etc/passwd', unasked"),
        (b'{"secret.txt": [1, "ab"]}', "'secret.txt', unasked"),
        (b"[]", "no listing"),
        (b'{"run.json": 1}', "no listing"),
        (b"", "no listing"),
    ],
)
def test_a_pod_cannot_send_what_nobody_asked_for(kubernetes, fedkube, disk, tmp_path, monkeypatch,
                                                 printed, said):  # fmt: skip
    monkeypatch.setattr(reader, "_LIST", f"import sys; sys.stdout.buffer.write({printed!r})")
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert said in done.err


def test_an_image_without_python(kubernetes, fedkube, disk, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_LIST", "import sys; sys.exit('python3: not found')")
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "python3: not found" in done.err
    assert "--image takes an image that has Python" in done.err


def test_a_run_that_failed_has_its_history(kubernetes, fedkube, disk, tmp_path):
    (tmp_path / "disk" / "digits-12345678" / "model.safetensors").unlink()
    words = [condition("Complete", "False", "NoUpdates", "all failed")]
    kubernetes.put("federatedruns", a_run(state="Failed", conditions=words))
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert "history.json" in names(tmp_path / "out")
    done = fedkube("pull", "digits", "--only", "model")
    assert done.code == 2
    assert "has no model: all failed" in done.err


def test_after_the_runs_pods_are_gone(kubernetes, fedkube, disk, tmp_path):
    kubernetes.remove("jobs", "digits-server")
    out = str(tmp_path / "out")
    done = fedkube("pull", "digits", "--out", out)
    assert done.code == 2
    assert "give --image" in done.err
    assert fedkube("pull", "digits", "--out", out, "--image", "python:3.11").code == 0
    run = kubernetes.of("federatedruns")[0]
    kubernetes.change("federatedruns", "digits", spec=run["spec"] | {"app": {"image": "mine:1"}})
    assert fedkube("pull", "digits", "--out", out).code == 0


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (a_run(), "is Running"),
        (
            a_run(state="Failed", startedAt=None,
                  conditions=[condition("Complete", "False", "InvalidSpec", "spec: no")]),
            "never began, so it has left nothing: spec: no",
        ),
    ],
)  # fmt: skip
def test_a_run_that_has_left_nothing_yet(kubernetes, fedkube, run, said):
    kubernetes.put("federatedruns", run)
    done = fedkube("pull", "digits")
    assert done.code == 2
    assert said in done.err
    assert kubernetes.asked("POST", "pods") == 0


def test_a_disk_that_is_gone(kubernetes, fedkube, disk):
    kubernetes.remove("persistentvolumeclaims", "digits-run")
    done = fedkube("pull", "digits")
    assert done.code == 2
    assert "claim 'digits-run', is gone" in done.err


def test_a_quota_that_has_no_room_for_the_pod(kubernetes, fedkube, disk, tmp_path):
    kubernetes.refusals.append(
        lambda method, path: (
            (403, status(403, 'pods "x" is forbidden: exceeded quota: few, requested: pods=1'))
            if method == "POST"
            else None
        )
    )
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "exceeded quota: few, requested: pods=1" in done.err


def stuck(kubernetes, **fields):
    """Pods do not get to run, and say so."""

    def stay(body):
        if body["kind"] == "Pod":
            kubernetes.change(
                "pods", body["metadata"]["name"], status={"phase": "Pending"} | fields
            )

    kubernetes.on_create = stay


def test_an_image_that_cannot_be_pulled(kubernetes, fedkube, disk, quick, tmp_path):
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    container = {"name": "reader", "image": "gone:1", "state": waiting}
    stuck(kubernetes, containerStatuses=[container])
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "ImagePullBackOff (image gone:1): no such image" in done.err
    assert "give --image" in done.err
    assert kubernetes.of("pods") == []


def test_a_disk_that_is_at_another_node(kubernetes, fedkube, disk, quick, tmp_path):
    def stay(body):
        name = body["metadata"]["name"]
        kubernetes.change("pods", name, status={"phase": "Pending"})
        words = "Multi-Attach error for volume: already used by pod(s) digits-server-x"
        event = an_event("e", name, "2026-01-01T10:00:00Z", type="Warning", message=words)
        kubernetes.put("events", event)

    kubernetes.on_create = stay
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "Multi-Attach error" in done.err
    assert "still at another node" in done.err


def test_no_node_takes_the_pod(kubernetes, fedkube, disk, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_HINT_S", -1.0)  # told at the first look, however late that is
    words = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    stuck(kubernetes, conditions=[words | {"message": "0/3 nodes are available"}])
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "no node takes it: 0/3 nodes are available" in done.err
    assert done.err.count("waiting for the pod") == 1


def test_a_pod_that_is_taken_away(kubernetes, fedkube, disk, quick, tmp_path):
    kubernetes.on_create = lambda body: kubernetes.remove("pods", body["metadata"]["name"])
    done = fedkube("pull", "digits", "--out", str(tmp_path / "out"))
    assert done.code == 5
    assert "somebody deleted it" in done.err


def test_readers_that_others_left_are_cleared_away(kubernetes, fedkube, disk, tmp_path):
    kubernetes.put("pods", a_pod("digits-pull-old", "reader", phase="Failed"))
    kubernetes.put("pods", a_pod("digits-pull-new", "reader"))
    kubernetes.put("pods", a_pod("digits-server-x", phase="Succeeded"))
    assert fedkube("pull", "digits", "--out", str(tmp_path / "out")).code == 0
    left = {pod["metadata"]["name"] for pod in kubernetes.of("pods")}
    assert left == {"digits-pull-new", "digits-server-x"}, "another's that runs stays"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_pod_is_deleted_when_the_command_is_ended(kubernetes, fedkube, disk, tmp_path, number):
    made = threading.Event()
    kubernetes.on_create = lambda body: made.set()  # it stays Pending
    process = fedkube.begin("pull", "digits", "--out", str(tmp_path / "out"))
    assert made.wait(20)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert kubernetes.of("pods") == []
    assert names(tmp_path / "out") == []


def test_a_folder_that_cannot_be_written(kubernetes, fedkube, disk, tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = fedkube("pull", "digits", "--out", str(tmp_path / "file" / "out"))
    assert done.code == 5
    assert "cannot write" in done.err
    assert kubernetes.asked("POST", "pods") == 0

"""Commands against the fake cluster, and the objects that its controllers would have written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_kubernetes import FakeKubernetes

from fedkube.cli import main

Object = dict[str, Any]
FEDKUBE = str(Path(sys.executable).parent / "fedkube")


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Commands:
    """``fedkube`` in this process, as a person calls it."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *words: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["fedkube", *words])
        code: Any = 0
        self._capsys.readouterr()
        try:
            main.main()
        except SystemExit as ended:
            code = ended.code or 0
        out, err = self._capsys.readouterr()
        return Done(int(code), out, err)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """In a process of its own, for what is about signals."""
        return subprocess.Popen(
            [FEDKUBE, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )


def a_run(
    name: str = "digits", *, state: str = "Running", space: str = "ml", **status: Any
) -> Object:
    """A run as the cluster has it."""
    ended = state in ("Succeeded", "Failed", "Stopped")
    said = {"state": state, "clients": 10, "startedAt": "2026-01-01T10:00:00Z"}
    if ended:
        said["endedAt"] = "2026-01-01T10:01:00Z"
    return {
        "apiVersion": "fedkube.io/v1alpha1",
        "kind": "FederatedRun",
        "metadata": {"name": name, "namespace": space, "uid": "12345678-aaaa"},
        "spec": {"pool": {"clients": 10}},
        "status": said | status,
    }


def condition(kind: str, word: str, reason: str, message: str) -> Object:
    return {
        "type": kind, "status": word, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T10:00:00Z",
    }  # fmt: skip


def a_pod(
    name: str, role: str = "server", run: str = "digits", phase: str = "Running", **status: Any
) -> Object:
    """A pod of a run."""
    state = {"Running": {"running": {}}, "Pending": {"waiting": {"reason": "ContainerCreating"}}}
    container = {
        "name": role, "restartCount": 0, "image": "i:1",
        "state": state.get(phase, {"terminated": {"exitCode": 0}}),
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "ml",
            "labels": {"fedkube.io/run": run, "fedkube.io/role": role},
        },
        "spec": {"containers": [{"name": role, "image": "i:1"}], "nodeName": "node-0"},
        "status": {"phase": phase, "containerStatuses": [container]} | status,
    }


def an_event(name: str, about: str, when: str, kind: str = "Pod", **fields: Any) -> Object:
    """A Kubernetes Event."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "ml"},
        "involvedObject": {"kind": kind, "name": about, "namespace": "ml"},
        "type": "Normal",
        "reason": "Started",
        "message": f"words about {about}",
        "lastTimestamp": when,
        "count": 1,
    } | fields


def a_disk(kubernetes: FakeKubernetes, folder: Path, name: str = "digits") -> dict[str, bytes]:
    """The disk of a run that has ended well, its Job, and the run; reader pods run at once."""
    files = {
        "run.json": b'{"state": "Succeeded"}',
        "history.json": b"[]",
        "history.csv": b"round\n",
        "log.txt": b"words\n",
        "model.safetensors": bytes(range(256)) * 40,
        "secret.txt": b"nobody asks for this",
    }
    place = folder / f"{name}-12345678"
    place.mkdir(parents=True)
    for each, data in files.items():
        (place / each).write_bytes(data)
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    model = {
        "claim": f"{name}-run",
        "path": f"{name}-12345678/model.safetensors",
        "sha256": sha256,
    }
    kubernetes.mount = folder
    kubernetes.put("federatedruns", a_run(name, state="Succeeded", model=model))
    kubernetes.put("persistentvolumeclaims", _named("PersistentVolumeClaim", f"{name}-run"))
    template = {
        "containers": [{"name": "server", "image": "digits:1"}],
        "nodeSelector": {"disk": "fast"},
    }
    job = _named("Job", f"{name}-server") | {"spec": {"template": {"spec": template}}}
    kubernetes.put("jobs", job)

    def start(body: Object) -> None:
        if body["kind"] == "Pod":
            kubernetes.change("pods", body["metadata"]["name"], status={"phase": "Running"})

    kubernetes.on_create = start
    return files


def _named(kind: str, name: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "ml"}}

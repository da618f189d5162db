"""What tests on a cluster share: kubectl, the commands, and waiting, in the tests' namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FEDKUBE = str(Path(sys.executable).parent / "fedkube")
SPACE = "fedkube-e2e"
# How the reason for skipping what needs a cluster begins.
NO_CLUSTER = "no cluster here: "
VERSION = "0.1.0"
DIGITS = ROOT / "examples" / "digits"
# What a run may own.
KINDS = "pods,jobs,services,secrets,configmaps,persistentvolumeclaims,networkpolicies,pdb"
ENDED = ("Succeeded", "Failed", "Stopped")
# Seconds in which a pod that is deleted has to be gone. A kubelet before 1.22 may forget to take
# away a container that ends by itself within the second in which its pod is deleted: the pod stays
# until dead containers are collected, once a minute, and the next look at pods' states, every 10 s.
POD_GONE = 120
COORDINATOR = "app.kubernetes.io/component=coordinator"


@dataclass(frozen=True)
class Cluster:
    """A cluster, and the namespace in it that the tests have to themselves."""

    kubeconfig: Path
    kubectl_path: str
    # Of an image's name, up to and with the slash; empty: the names as they are.
    registry: str = ""
    # It is the one of tests.cluster: its daemons can be stopped.
    own: bool = False

    def image(self, name: str) -> str:
        """Such as "fedkube-digits"."""
        return f"{self.registry}{name}:{VERSION}"

    @property
    def environment(self) -> dict[str, str]:
        """Of whatever is to talk to this cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def try_kubectl(
        self, *words: str, stdin: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """kubectl in the tests' namespace, whatever comes of it."""
        return subprocess.run(
            [self.kubectl_path, "-n", SPACE, *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=self.environment,
        )

    def kubectl(
        self, *words: str, stdin: str | None = None, check: bool = True, timeout: float = 120
    ) -> str:
        """What kubectl printed; it has to succeed unless told otherwise."""
        done = self.try_kubectl(*words, stdin=stdin, timeout=timeout)
        assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def get(self, kind: str, *words: str) -> list[dict[str, Any]]:
        """Objects of a kind, such as ``get("pods", "-l", "a=b")``."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *words, "-o", "json"))[
            "items"
        ]
        return found

    def try_apply(self, *objects: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        """Apply objects, whatever comes of it."""
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        return self.try_kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects."""
        done = self.try_apply(*objects)
        assert done.returncode == 0, done.stderr

    def fedkube(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """A fedkube command in the tests' namespace, whatever comes of it."""
        return subprocess.run(
            [FEDKUBE, *words, "-n", SPACE],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=self.environment,
        )

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A fedkube command that goes on meanwhile."""
        return subprocess.Popen(
            [FEDKUBE, *words, "-n", SPACE],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def status(self, run: str) -> dict[str, Any]:
        """What `fedkube get` says of a run."""
        done = self.fedkube("get", run, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def until(
        self, holds: Callable[[], Any], what: str, seconds: float = 120, every: float = 0.3
    ) -> Any:
        """Look until something is true of the cluster; what was found."""
        deadline = time.monotonic() + seconds
        while True:
            if found := holds():
                return found
            assert time.monotonic() < deadline, f"no {what} in {seconds} s\n{self.story()}"
            time.sleep(every)

    def story(self) -> str:
        """What is there and what happened, for the message of a test that failed."""
        there = self.kubectl("get", "federatedruns,all,pvc", "-o", "wide", check=False)
        events = self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)
        said = self.kubectl("logs", "-l", COORDINATOR, "--tail=30", check=False)
        return f"{there}\n{events[-4000:]}\n{said}"

    def wait_for_end(self, run: str, seconds: float = 240) -> dict[str, Any]:
        """A run's status when it has ended, in whatever way."""

        def ended() -> dict[str, Any] | None:
            found = self.status(run)
            return found if found["state"] in ENDED else None

        found: dict[str, Any] = self.until(ended, f"end of {run}", seconds)
        return found

    def pods(self, run: str, role: str, *, running: bool = False) -> list[str]:
        """A run's pods of a role (server, worker), as pod/NAME."""
        words = ["-l", f"fedkube.io/run={run},fedkube.io/role={role}"]
        words += ["--field-selector=status.phase=Running"] if running else []
        return self.kubectl("get", "pods", *words, "-o", "name").split()

    def running_pods(self, run: str, role: str) -> list[str]:
        """Those that are running."""
        return self.pods(run, role, running=True)

    def left_of(self, run: str) -> list[str]:
        """Objects of a run that are still there, as KIND/NAME."""
        return self.kubectl("get", KINDS, "-l", f"fedkube.io/run={run}", "-o", "name").split()

    def until_gone(self, run: str) -> None:
        """Wait for the end of a run's last object."""
        self.until(lambda: not self.left_of(run), "end of the last object", POD_GONE)

    def submit_digits(self, name: str, *words: str, rounds: int = 3) -> None:
        """Submit the digits example with a seed; later words override earlier ones."""
        done = self.fedkube(
            *("submit", str(DIGITS), "--image", self.image("fedkube-digits"), "--name", name),
            *("--seed", "7", "--clients", "10", "--workers", "2"),
            *("-c", f"num-server-rounds={rounds}", *words),
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.story()}"


def federated_run(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The object as a person would write it."""
    return {
        "apiVersion": "fedkube.io/v1alpha1",
        "kind": "FederatedRun",
        "metadata": {"name": name},
        "spec": dict(spec),
    }


def local_digits(folder: Path, rounds: int) -> dict[str, Any]:
    """What `fedkube run` gives for the run that ``submit_digits`` submits, on this machine."""
    done = subprocess.run(
        [
            *(FEDKUBE, "run", str(DIGITS), "--seed", "7", "--clients", "10"),
            *("--workers", "2", "-c", f"num-server-rounds={rounds}", "--out", str(folder)),
            *("--json", "--no-progress"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def local_misbehave(folder: Path, rounds: int, clients: int = 4) -> str:
    """The model's digest of a run of the app that misbehaves when told to, on this machine.

    Its clients sleep here for no time, which changes nothing of the model.
    """
    done = subprocess.run(
        [
            *(FEDKUBE, "run", str(ROOT / "tests" / "apps" / "misbehave"), "--seed", "5", "--json"),
            *("--clients", str(clients), "-c", f"num-server-rounds={rounds}"),
            *("--out", str(folder), "--no-progress"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    digest: str = json.loads(done.stdout.splitlines()[-1])["model"]["sha256"]
    return digest

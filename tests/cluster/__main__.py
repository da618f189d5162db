"""The command line.

python -m tests.cluster
  cluster             all of it: what is missing installed and built, then up; says how to use it
  prepare             the same, short of standing it up; where there can be none it says so
  deps                install Debian's packages
  build               build Kubernetes' binaries (about ten minutes, once)
  images              build the project's images where their files changed; load them if it is up
  up, down, status    stand it up, take it away, look at it
  load ARCHIVE...     images that were built elsewhere
  gpus NODE COUNT     give a node GPUs that nobody has; node-0 is the real one
  fakenode NAME [GPUS [CPUS [MEMORY]]]   a node without a kubelet
  stop DAEMON, start DAEMON              apiserver, kubelet, containerd, etcd, ...
  logs DAEMON         what it wrote
  kubeconfig, kubectl where they are
  ns COMMAND...       run something inside, such as: ctr -n k8s.io images ls

KT_CACHE (~/.cache/fedkube/cluster) is kept, KT_STATE ($KT_CACHE/state) goes with the cluster;
KT_BIN names a folder with the binaries of another release.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster import (
    binaries,
    buildah,
    containerd,
    fake_nodes,
    helper,
    node,
    packages,
    project_images,
    settings,
    supervisor,
)
from tests.cluster.api import Api
from tests.cluster.shell import ApiError, ClusterError, alone


def prepare() -> list[project_images.Built]:
    """Everything short of standing it up. Quick when nothing changed."""
    if reason := packages.why_not():
        raise ClusterError(f"this machine cannot have a cluster: {reason}")
    packages.install(packages.RUNTIME)
    binaries.build()
    return project_images.build_all()


def ensure_up() -> bool:
    """Prepare, and stand it up unless it is; whether it was not. Its images are the newest."""
    with alone(settings.LOCK):
        images = prepare()
        began = time.monotonic()
        fresh = node.running() is None
        if fresh:
            node.up()
            print(f"cluster: up in {time.monotonic() - began:.1f} s", flush=True)
        containerd.synchronize(images)
    return fresh


def take_down() -> None:
    """What is built is kept."""
    with alone(settings.LOCK):
        node.down()
        buildah.unmount()


def _cluster() -> None:
    ensure_up()
    print(
        f"cluster: up. To use it:\n  export KUBECONFIG={settings.KUBECONFIG}"
        f" PATH={settings.BINARIES}:$PATH\n  kubectl get nodes"
        "\nWhole runs on it: make e2e. To take it away: make cluster-down."
    )


def _up() -> None:
    if node.running():
        raise ClusterError("the cluster is up already")
    ensure_up()


def _images() -> None:
    with alone(settings.LOCK):
        images = prepare()
        if node.running():
            containerd.synchronize(images)


def _down() -> None:
    began = time.monotonic()
    take_down()
    print(f"cluster: down in {time.monotonic() - began:.1f} s")


def _prepare() -> None:
    if reason := packages.why_not():
        print(f"cluster: this machine cannot have one, its tests will not run: {reason}")
    else:
        with alone(settings.LOCK):
            prepare()


def _inside(*command: str) -> None:
    sys.exit(subprocess.run(node.inside(*command), check=False).returncode)


def _deps() -> None:
    packages.install((*packages.RUNTIME, *packages.IMAGE_TOOLS))
    if binaries.missing():
        packages.install(packages.COMPILER)


def _logs(name: str) -> None:
    path = settings.LOGS / f"{name}.log"
    if not path.exists():
        there = ", ".join(sorted(each.stem for each in settings.LOGS.glob("*.log")))
        raise ClusterError(f"no log of {name}; there are {there or 'none'}")
    sys.stdout.write(path.read_text(errors="replace"))


_VERBS: dict[str, Callable[..., object]] = {
    "cluster": _cluster,
    "prepare": _prepare,
    "deps": _deps,
    "build": binaries.build,
    "images": _images,
    "up": _up,
    "down": _down,
    "status": lambda: print(node.status()),
    "load": lambda *archives: containerd.load(map(Path, archives)),
    "gpus": lambda name, count: fake_nodes.give_gpus(Api(), name, int(count)),
    "fakenode": lambda name, gpus="4", *more: fake_nodes.add(Api(), name, int(gpus), *more),
    "stop": lambda name: supervisor.ask("stop", name),
    "start": lambda name: supervisor.ask("start", name),
    "logs": _logs,
    "kubeconfig": lambda: print(settings.KUBECONFIG),
    "kubectl": lambda: print(settings.BINARIES / "kubectl"),
    "ns": _inside,
    # What runs inside.
    "_supervisor": supervisor.main,
    "_helper": helper.main,
}


def main(words: Sequence[str]) -> int:
    """Do what the words say."""
    verb, *rest = words or ["help"]
    if verb not in _VERBS:
        print(__doc__)
        return 0 if verb in ("help", "-h", "--help") else 2
    try:
        _VERBS[verb](*rest)
    except (ClusterError, ApiError, OSError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

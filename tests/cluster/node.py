"""The cluster as the host sees it: up, down, status, and commands inside."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster import binaries, certificates, configs, settings, supervisor
from tests.cluster.api import Api
from tests.cluster.shell import ClusterError, Word, run, wait_for, write

_PID = settings.RUN / "pid"
_SAID = settings.RUN / "supervisor.log"
_CGROUPS = Path("/sys/fs/cgroup")


def running() -> int | None:
    """The supervisor's process id on the host, or None."""
    try:
        pid, born = _PID.read_text().split()
        return int(pid) if _stat(int(pid))[19] == born else None
    except (OSError, ValueError):
        return None


def _stat(pid: int) -> list[str]:
    """A process's status, from its state on: [1] is its parent, [19] its time of birth."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def up() -> None:
    """Stand the cluster up, images left aside; returns when its node is Ready."""
    if running():
        raise ClusterError("the cluster is up already")
    if missing := binaries.missing():
        raise ClusterError(f"not built: {' '.join(missing)} (python -m tests.cluster build)")
    if run("ip", "link", "show", settings.HOST_LINK, check=False, quiet=True) == 0:
        raise ClusterError(
            f"another cluster is up (its link {settings.HOST_LINK} is there); a machine has one"
        )
    _clean()
    for folder in (settings.RUN, settings.LOGS):
        folder.mkdir(parents=True)
    certificates.make_all()
    configs.write_all()
    if shutil.which("modprobe"):
        # Where they are built in, or may not be loaded, what follows tells.
        run("modprobe", "-aq", "overlay", "br_netfilter", check=False, quiet=True)
    for folder in _cgroups():
        folder.mkdir(exist_ok=True)
    try:
        _start()
    except ClusterError as error:
        said = _SAID.read_text().strip()[-600:] if _SAID.exists() else ""
        raise ClusterError(f"{error}\n{said}".strip()) from error


def _start() -> None:
    with _SAID.open("ab") as log:
        process = subprocess.Popen(
            [
                *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"),
                *("--mount-proc", sys.executable, "-m", "tests.cluster", "_supervisor"),
            ],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={
                **os.environ,
                "PYTHONPATH": str(settings.ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "KT_STATE": str(settings.STATE),
                "KT_CACHE": str(settings.CACHE),
                "KT_BIN": str(settings.BINARIES),
            },
        )
    pid = wait_for("the supervisor", lambda: _child_of(process.pid), 10, 0.02)
    write(_PID, f"{pid} {_stat(pid)[19]}")
    _link(pid)

    def started() -> bool:
        if process.poll() is not None or not running():
            raise ClusterError("the cluster did not start")
        return supervisor.STARTED.exists()

    wait_for("the control plane", started, 120)
    api = Api()
    _defaults(api)
    wait_for("the node", lambda: _node_ready(api), 90)
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    needed = "secrets" if binaries.minor() < 24 else "metadata"
    wait_for("the default service account", lambda: api.get(account).get(needed), 60)
    # So that its end, whenever it comes, is no warning of this process.
    process.returncode = 0


def _child_of(parent: int) -> int | None:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if _stat(int(path.name))[1] == str(parent):
                return int(path.name)
        except OSError:
            continue
    return None


def _link(pid: int) -> None:
    """A pair of interfaces, one end inside; the host reaches pods and Services through it."""
    host = settings.HOST_LINK
    run("ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", pid)
    run("ip", "addr", "add", f"{settings.HOST_IP}/30", "dev", host)
    run("ip", "link", "set", host, "up")
    for net in (settings.POD_NET, settings.SERVICE_NET):
        run("ip", "route", "add", net, "via", settings.NODE_IP)


def _defaults(api: Api) -> None:
    """Cluster DNS as a Service with hand-made endpoints, and a default StorageClass."""
    space = "/api/v1/namespaces/kube-system"
    port = {"name": "dns", "port": 53, "protocol": "UDP"}
    service = {"clusterIP": settings.DNS_SERVICE_IP, "ports": [{**port, "targetPort": 53}]}
    api.post(f"{space}/services", {"metadata": {"name": "kube-dns"}, "spec": service})
    subset = {"addresses": [{"ip": settings.NODE_IP}], "ports": [port]}
    api.post(f"{space}/endpoints", {"metadata": {"name": "kube-dns"}, "subsets": [subset]})
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    api.post(
        "/apis/storage.k8s.io/v1/storageclasses",
        {
            "metadata": {"name": settings.STORAGE_CLASS, "annotations": default},
            "provisioner": settings.PROVISIONER,
        },
    )


def _node_ready(api: Api) -> bool:
    node = api.get(f"/api/v1/nodes/{settings.NODE}")
    conditions = node.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def inside(*command: Word) -> list[str]:
    """The command line that runs a command in the cluster's namespaces."""
    pid = running()
    if pid is None:
        raise ClusterError("the cluster is not up")
    return [str(each) for each in ("nsenter", "-t", pid, "-m", "-n", "-p", *command)]


def status() -> str:
    """Its processes with their memory (proportional set size), and which daemons died."""
    pid = running()
    if pid is None:
        return "cluster: down"
    lines, total = [], 0
    for each in _members(pid):
        try:
            found = re.search(r"Pss:\s+(\d+)", Path(f"/proc/{each}/smaps_rollup").read_text())
            words = Path(f"/proc/{each}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        mebibytes = int(found[1]) // 1024 if found else 0
        total += mebibytes
        lines.append(f"{each:>8} {mebibytes:6d} MiB  {words[:90]}")
    if supervisor.DIED.exists():
        lines.append(f"cluster: ended by themselves: {supervisor.DIED.read_text().strip()}")
    return "\n".join([*lines, f"cluster: up, supervisor {pid}, {total} MiB"])


def _members(pid: int) -> list[int]:
    """The processes of the supervisor's PID namespace."""
    space = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "ns" / "pid") == space:
                found.append(int(path.name))
        except OSError:
            continue
    return found


def down() -> None:
    """End it, and leave nothing behind but the cache."""
    pid = running()
    if pid is not None:
        members = _members(pid)
        # PID 1 of its namespace: the kernel ends all the rest.
        os.kill(pid, signal.SIGKILL)
        wait_for("the processes' end", lambda: not any(map(_there, members)), 60)
    run("ip", "link", "del", settings.HOST_LINK, check=False, quiet=True)
    _clean()


def _there(pid: int) -> bool:
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def _cgroups() -> list[Path]:
    return [path / settings.CGROUP for path in _CGROUPS.iterdir() if path.is_dir()]


def _clean() -> None:
    for top in _cgroups():
        for folder, _, _ in os.walk(top, topdown=False):
            _remove_cgroup(Path(folder))
    shutil.rmtree(settings.STATE, ignore_errors=True)


def _remove_cgroup(folder: Path) -> None:
    for _ in range(50):  # the kernel may still be emptying it
        try:
            return folder.rmdir()
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(0.1)
    raise ClusterError(f"{folder} cannot be removed: processes are in it still")

"""PID 1 of the cluster's namespaces: mounts, network, daemons, and requests to stop or start one.

A daemon that ends by itself is noted and never restarted: a test must see it.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.cluster import configs, settings
from tests.cluster.api import Api
from tests.cluster.daemons import Daemon, all_of_them
from tests.cluster.shell import ClusterError, output, run, wait_for, write

CONTROL = settings.RUN / "control"
STARTED = settings.RUN / "started"
DIED = settings.RUN / "died"

_STOP_S = 20.0


def main() -> None:
    """Start everything, then serve until the kernel ends it all."""
    # As PID 1 it would not be told of its children's ends without a handler.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writer)
    _mounts()
    _network()
    daemons = _Daemons(all_of_them())
    daemons.start("containerd", "etcd", "apiserver", "controller-manager", "scheduler")
    # Before the API server is ready: kubelet 1.20 first looks five seconds for a Docker.
    _wait_for_containerd()
    _forget_containers(daemons)
    daemons.start("kubelet")
    wait_for("the API server", lambda: daemons.all_alive() and Api().ready(), 90)
    daemons.start("proxy", "helper")
    control = socket.socket(socket.AF_UNIX)
    control.bind(str(CONTROL))
    control.listen()
    write(STARTED, "")
    _serve(daemons, control, reader)


def _mounts() -> None:
    """A /var and a /run of its own, so that nothing of the cluster lands in the host's."""
    var = settings.STATE / "var"
    images = settings.CACHE / "containerd"
    for folder in ("lib/kubelet", "lib/containerd", "lib/cni", "log", "tmp"):
        (var / folder).mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(images / "io.containerd.grpc.v1.cri", ignore_errors=True)
    (var / "run").symlink_to("/run")
    run("mount", "--make-rprivate", "/")
    run("mount", "--bind", images, var / "lib" / "containerd")
    run("mount", "--bind", configs.RESOLV_CONF, "/etc/resolv.conf")
    run("mount", "--rbind", var, "/var")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    run("mount", "--make-rshared", "/")


def _wait_for_containerd() -> None:
    version = ("ctr", "version")
    wait_for("containerd", lambda: run(*version, check=False, quiet=True) == 0, 30)


def _forget_containers(daemons: _Daemons) -> None:
    """Containers of the cluster before: containerd's root outlives a cluster, for its images."""
    containers = ("ctr", "-n", "k8s.io", "containers")
    old = output(*containers, "ls", "-q").split()
    if not old:
        return
    run(*containers, "rm", *old, check=False, quiet=True)
    # It has read them already.
    daemons.stop("containerd")
    daemons.start("containerd")
    _wait_for_containerd()


def _network() -> None:
    """The link that the host moves in here becomes the node's."""
    run("ip", "link", "set", "lo", "up")
    link = ("ip", "link", "show", "eth0")
    wait_for("eth0", lambda: run(*link, check=False, quiet=True) == 0, 20, 0.02)
    run("ip", "addr", "add", f"{settings.NODE_IP}/30", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    # No default route: what is not the cluster's fails at once. Kubelet 1.20 asks the clouds'
    # metadata services for credentials when it starts, and would wait 12 s for their silence.
    run("ip", "route", "add", settings.SERVICE_NET, "via", settings.HOST_IP)
    for key in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        Path("/proc/sys", key).write_text("1")


class _Daemons:
    """The processes, by name and by id."""

    def __init__(self, known: dict[str, Daemon]) -> None:
        self._known = known
        self._pids: dict[str, int] = {}

    def start(self, *names: str) -> None:
        for name in names:
            daemon = self._known.get(name)
            if daemon is None:
                raise ClusterError(f"no daemon {name}; there are {', '.join(self._known)}")
            if name in self._pids:
                raise ClusterError(f"{name} runs already")
            with (settings.LOGS / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    daemon.command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                    env={**os.environ, **daemon.environment},
                    start_new_session=True,
                )
            self._pids[name] = process.pid
            # It is reaped below, with whatever else the kernel hands to PID 1.
            process.returncode = 0

    def stop(self, name: str) -> None:
        """End it in order; what does not end in time is killed."""
        pid = self._pids.get(name)
        if pid is None:
            raise ClusterError(f"{name} does not run")
        del self._pids[name]
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def reap(self) -> None:
        """Bury the dead; a daemon among them is noted."""
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name in [name for name, its in self._pids.items() if its == pid]:
                del self._pids[name]
                with DIED.open("a") as noted:
                    noted.write(f"{name}: {os.waitstatus_to_exitcode(code)}\n")

    def all_alive(self) -> bool:
        self.reap()
        if DIED.exists():
            raise ClusterError(f"ended by itself: {DIED.read_text().strip()}")
        return True


def _serve(daemons: _Daemons, control: socket.socket, wakeups: int) -> None:
    """Requests are `stop NAME` and `start NAME`; the answer is empty, or what is wrong."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(wakeups, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj == wakeups:
                os.read(wakeups, 4096)
            else:
                connection, _ = control.accept()
                with connection:
                    connection.settimeout(5)
                    _answer(daemons, connection)
        daemons.reap()


def _answer(daemons: _Daemons, connection: socket.socket) -> None:
    try:
        verb, _, name = connection.recv(1024).decode().strip().partition(" ")
        try:
            if verb == "stop":
                daemons.stop(name)
            else:
                daemons.start(name)
            connection.sendall(b"\n")
        except ClusterError as error:
            connection.sendall(f"{error}\n".encode())
    except OSError as error:
        print("supervisor: a request failed:", error, flush=True)


def ask(verb: str, name: str) -> None:
    """From the host: stop or start one daemon. Returns when it has ended or begun."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_STOP_S + 20)
        try:
            connection.connect(str(CONTROL))
        except OSError as error:
            raise ClusterError(f"the cluster is not up ({error})") from error
        connection.sendall(f"{verb} {name}\n".encode())
        wrong = connection.makefile().read().strip()
    if wrong:
        raise ClusterError(wrong)

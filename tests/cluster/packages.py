"""The Debian packages that everything is made of, and whether this machine can have a cluster."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import settings
from tests.cluster.shell import ClusterError, output, run, write

RUNTIME = (
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "iproute2",
    "iptables",
    "openssl",
    "runc",
    "util-linux",
)
IMAGE_TOOLS = ("buildah", "ca-certificates", "gcc", "libc6-dev", "mmdebstrap")
COMPILER = (
    "gcc",
    "golang-github-modern-go-reflect2-dev",
    "golang-go",
    "jq",
    "libc6-dev",
    "make",
    "rsync",
)

# What install scripts of services ask before they start anything: not here.
_POLICY = Path("/usr/sbin/policy-rc.d")


def why_not() -> str | None:
    """Why this machine cannot have a cluster, or None: it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "it takes Linux on x86_64"
    if os.geteuid() != 0:
        return "it takes root"
    if shutil.which("apt-get") is None:
        return "it takes Debian (there is no apt-get)"
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return "it takes cgroup v1 (Kubernetes 1.20 is not at home on v2)"
    if not Path("/sys/fs/cgroup/memory").is_dir():
        return "it takes cgroup v1, mounted at /sys/fs/cgroup"
    if run("unshare", "--mount", "--net", "--pid", "--fork", "true", check=False, quiet=True):
        return "new namespaces are not allowed here (a container without privileges?)"
    return _misplaced() or _addresses_taken()


def _misplaced() -> str | None:
    """The cluster has a /var and a /run of its own, in which nothing of the host's is seen."""
    for what, path in (
        ("the project", settings.ROOT),
        ("KT_CACHE", settings.CACHE),
        ("KT_STATE", settings.STATE),
        ("KT_BIN", settings.BINARIES),
    ):
        if str(path.resolve()).startswith(("/var/", "/run/")):
            return f"{what} may not be under /var or /run, but is {path}"
    return None


def _addresses_taken() -> str | None:
    """A host that is itself in one of the cluster's networks would lose its way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((settings.HOST_IP, 9))
            mine = probe.getsockname()[0]
        except OSError:
            return None
    if mine != settings.HOST_IP and mine.startswith(("10.244.", "10.245.0.", "10.96.")):
        return f"this machine's own address {mine} is in a network that the cluster uses"
    return None


def missing(names: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed."""
    listed = output("dpkg-query", "-W", "-f", "${Package} ${Status}\n", *names, check=False)
    there = {
        line.split()[0]
        for line in listed.splitlines()
        if line.endswith(" installed") and line.split()
    }
    return [name for name in names if name not in there]


def install(names: Sequence[str]) -> None:
    """Install what is missing; no service is started by that."""
    wanted = missing(names)
    if not wanted:
        return
    print("cluster: installing", " ".join(wanted), flush=True)
    made = not _POLICY.exists()
    if made:
        write(_POLICY, "#!/bin/sh\nexit 101\n", 0o755)
    try:
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-y", "-q", "--no-install-recommends", *wanted)
    finally:
        if made:
            _POLICY.unlink()
    if left := missing(names):
        raise ClusterError(f"apt-get installed everything but {' '.join(left)}")

"""Container images without a registry: buildah, and a Debian base under the official name."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.cluster import settings
from tests.cluster.shell import ClusterError, output, run, write

BASE = "docker.io/library/python:3.11-slim-bookworm"
BUILDAH = (
    "buildah",
    *("--root", str(settings.CACHE / "buildah"), "--runroot", str(settings.CACHE / "buildah.run")),
    *("--storage-driver", "overlay"),
)

_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
# What separates Debian's Python from the official image: the mark of PEP 668, the names python and
# pip. Nothing of this machine's sources stays.
_TWEAK = """set -e
rm -f /usr/lib/python3.*/EXTERNALLY-MANAGED
ln -sf /usr/bin/python3 /usr/local/bin/python
ln -sf /usr/bin/python3 /usr/local/bin/python3
ln -sf /usr/bin/pip3 /usr/local/bin/pip
rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /var/cache/* /var/lib/apt/lists/*
rm -rf /var/log/* /etc/apt/sources.list.d/0000* /etc/resolv.conf /etc/hostname
"""
BASE_RECIPE = f"{BASE} {_PACKAGES}\n{_TWEAK}"

PAUSE_SOURCE = r"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int number) { _exit(0); }
static void reap(int number) { while (waitpid(-1, 0, WNOHANG) > 0); }

int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
"""


def has(name: str) -> bool:
    """Whether an image of this name is in the store."""
    return run(*BUILDAH, "inspect", "--type", "image", name, check=False, quiet=True) == 0


def make_base(tags: Iterable[str]) -> None:
    """The official image's counterpart, made of Debian's packages."""
    deb822 = Path("/etc/apt/sources.list.d/debian.sources")
    sources = deb822 if deb822.exists() else Path("/etc/apt/sources.list")
    settings.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.CACHE) as folder:
        archive = Path(folder) / "base.tar"
        run(
            *("mmdebstrap", "--quiet", "--format=tar", "--variant=minbase"),
            f"--include={_PACKAGES}",
            f'--customize-hook=chroot "$1" sh -c {shlex.quote(_TWEAK)}',
            *("bookworm", archive, sources),
        )
        path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        _from_scratch(
            [(archive, "/")], tags, "--cmd=python3", "--env=LANG=C.UTF-8", f"--env=PATH={path}"
        )


def make_pause(tags: Iterable[str]) -> None:
    """The sandbox image: one static program that sleeps for ever."""
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "pause.c", PAUSE_SOURCE)
        program = source.with_suffix("")
        run("gcc", "-Os", "-static", "-s", "-o", program, source)
        _from_scratch([(program, "/pause")], tags, '--entrypoint=["/pause"]')


def _from_scratch(parts: Iterable[tuple[Path, str]], tags: Iterable[str], *config: str) -> None:
    container = output(*BUILDAH, "from", "scratch").strip()
    try:
        for source, target in parts:
            run(*BUILDAH, "add", "-q", container, source, target, quiet=True)
        run(*BUILDAH, "config", *config, container)
        first, *others = tags
        run(*BUILDAH, "commit", "-q", container, first, quiet=True)
        if others:
            run(*BUILDAH, "tag", first, *others)
    finally:
        run(*BUILDAH, "rm", container, quiet=True)


def build(dockerfile: Path, context: Path, tag: str, *options: str, log: Path) -> None:
    """What a Dockerfile says; the way to the package index is lent by the host, and not kept."""
    command = [
        *(*BUILDAH, "bud", "--isolation", "chroot", "--network", "host", "--pull-never"),
        *("--layers", "-f", str(dockerfile), "-t", tag, *options),
    ]
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as sink:
        mounts = pip_mounts(write(Path(folder) / "pip.conf", pip_conf(_pip_settings())))
        command += [*mounts, str(context)]
        done = subprocess.run(command, stdout=sink, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ClusterError(f"buildah could not build {dockerfile} (all of it: {log}):\n{said}")


def _pip_settings() -> dict[str, str]:
    """What pip was told on this machine, by files and by the environment: the latter wins."""
    listed = output(sys.executable, "-m", "pip", "config", "list").splitlines()
    found: dict[str, str] = {}
    for line in sorted(listed, reverse=True):  # global., then :env:.
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    return found


def pip_conf(told: dict[str, str]) -> str:
    """A pip.conf of what concerns the way to packages."""
    wanted = (
        *("cert", "constraint", "default-timeout", "extra-index-url", "find-links"),
        *("index-url", "no-index", "proxy", "retries", "timeout", "trusted-host"),
    )
    lines = [f"{key} = {' '.join(told[key].split())}" for key in wanted if key in told]
    return "\n".join(["[global]", *lines, ""])


def pip_mounts(conf: Path) -> list[str]:
    """Arguments that lend a build the pip.conf, the files it names, and the CA certificates."""
    # Debian's links in the first folder of certificates lead to the others.
    certificates = (
        "/etc/ssl/certs",
        *(f"/usr{each}/share/ca-certificates" for each in ("", "/local")),
    )
    lent = {"/etc/pip.conf": str(conf), **{place: place for place in certificates}}
    for word in conf.read_text().split():
        place = word.removeprefix("file://")
        if place.startswith("/") and place not in lent:
            lent[place] = place
            folder = Path(place)
            if folder.name == "simple":  # an index's links lead beside it
                lent[str(folder.with_name("files"))] = str(folder.with_name("files"))
    return [
        word
        for target, source in lent.items()
        if os.path.exists(source)
        for word in ("--volume", f"{source}:{target}:ro")
    ]


def stream(name: str, reference: str) -> subprocess.Popen[bytes]:
    """An image as an archive on the process's standard output, under the name it is to have."""
    return subprocess.Popen(
        [*BUILDAH, "push", "-q", name, f"docker-archive:/dev/stdout:{reference}"],
        stdout=subprocess.PIPE,
    )


def unmount() -> None:
    """What builds that were cut short have left mounted."""
    store = str(settings.CACHE / "buildah")
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in sorted((each for each in mounted if each.startswith(store)), reverse=True):
        run("umount", place, check=False)


def forget_others(wanted: Iterable[str]) -> None:
    """Remove every image but these and what they are made of."""
    keep = set(wanted)
    run(*BUILDAH, "rm", "--all", quiet=True, check=False)  # of builds that were cut short
    listed = output(*BUILDAH, "images", "--format", "{{.Name}}:{{.Tag}}").split()
    others = [name for name in listed if name not in keep and "<none>" not in name]
    if others:
        run(*BUILDAH, "rmi", *others, quiet=True)
    run(*BUILDAH, "rmi", "--prune", quiet=True, check=False)

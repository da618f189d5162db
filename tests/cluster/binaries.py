"""Kubernetes' own binaries, built from Debian's source package.

Debian ships only kubectl in binary form; the source package has the whole tree with its vendor/.
"""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
import time
from pathlib import Path

from tests.cluster import packages, settings
from tests.cluster.shell import ClusterError, output, run, write

_SOURCE = settings.CACHE / f"kubernetes-{settings.RELEASE}"
_REFLECT2 = Path("github.com/modern-go/reflect2")


def missing() -> list[str]:
    """The binaries that are not there."""
    return [name for name in settings.COMPONENTS if not (settings.BINARIES / name).exists()]


@functools.cache
def minor(binary: str = "kube-apiserver") -> int:
    """A binary's minor version: 20 for what `build` makes."""
    said = output(settings.BINARIES / binary, "--version")
    found = re.search(r"v1\.(\d+)", said)
    if found is None:
        raise ClusterError(f"{settings.BINARIES / binary} says of its version only: {said.strip()}")
    return int(found[1])


def build() -> None:
    """Build what is missing: about ten minutes on two cores, once."""
    wanted = missing()
    if not wanted:
        return
    if settings.BINARIES != settings.CACHE / "bin":
        raise ClusterError(f"KT_BIN={settings.BINARIES} lacks {' '.join(wanted)}")
    packages.install(packages.COMPILER)
    began = time.monotonic()
    print("cluster: building Kubernetes, once: about ten minutes on two cores", flush=True)
    if not _SOURCE.is_dir():
        _fetch_source()
    _mend_reflect2()
    # The kubelet is made static like the others: linked with cgo it would need every package
    # compiled a second time.
    run(
        *("make", "WHAT=" + " ".join(f"cmd/{name}" for name in wanted)),
        *("GOFLAGS=-mod=vendor", "GOLDFLAGS=-s -w", "KUBE_STATIC_OVERRIDES=kubelet"),
        *(f"KUBE_GIT_VERSION=v{settings.RELEASE}", "KUBE_GIT_COMMIT=x"),
        *("KUBE_GIT_TREE_STATE=clean", "KUBE_GIT_MAJOR=1", "KUBE_GIT_MINOR=20"),
        cwd=_SOURCE,
    )
    settings.BINARIES.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        made = settings.BINARIES / f"{name}.part"
        shutil.copy2(_SOURCE / "_output" / "local" / "bin" / "linux" / "amd64" / name, made)
        made.rename(settings.BINARIES / name)
    # Three gigabytes that nobody needs again.
    shutil.rmtree(_SOURCE)
    print(f"cluster: built Kubernetes in {time.monotonic() - began:.0f} s", flush=True)


def _mend_reflect2() -> None:
    """Put Debian's reflect2 1.0.2 in the place of the vendored 1.0.1.

    That one walks maps wrongly under Go 1.18 and later: the API server would die (SIGSEGV in
    GetObjectMeta) of the first custom object.
    """
    vendored = _SOURCE / "vendor" / _REFLECT2
    for old in [*vendored.glob("*.go"), *vendored.glob("*.s")]:
        old.unlink()
    mended = Path("/usr/share/gocode/src") / _REFLECT2
    for new in [*mended.glob("*.go"), *mended.glob("*.s")]:
        shutil.copy(new, vendored)


def source_lines(text: str, *, deb822: bool) -> str:
    """An apt source list that offers source packages in the place of binary ones."""
    if deb822:
        return re.sub(r"(?m)^Types:.*$", "Types: deb-src", text)
    return re.sub(r"(?m)^deb ", "deb-src ", text)


def _fetch_source() -> None:
    """By an apt configuration that is thrown away: the host's own sources, with deb-src."""
    with tempfile.TemporaryDirectory(prefix="fedkube-source.") as name:
        folder = Path(name)
        lists = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").iterdir()]
        for path in lists:
            if not path.exists() or path.suffix not in (".list", ".sources"):
                continue
            text = path.read_text()
            if "debian" in text:  # others' archives seldom have source packages
                text = source_lines(text, deb822=path.suffix == ".sources")
                write(folder / "parts" / path.name, text)
        (folder / "lists" / "partial").mkdir(parents=True)
        options = (
            *("-o", "Dir::Etc::sourcelist=/dev/null"),
            *("-o", f"Dir::Etc::sourceparts={folder}/parts"),
            *("-o", f"Dir::State::lists={folder}/lists"),
            *("-o", "APT::Sandbox::User=root"),
        )
        run("apt-get", *options, "update", "-q")
        run(
            *("apt-get", *options, "source", "-q", "--download-only"),
            "kubernetes",
            cwd=folder,
        )
        archive = next(folder.glob("kubernetes_*.orig.tar.*"), None)
        if archive is None:
            raise ClusterError("apt-get source kubernetes brought no archive")
        if settings.RELEASE not in archive.name:
            raise ClusterError(
                f"Debian's Kubernetes here is {archive.name}; {settings.RELEASE} was expected"
                " (Debian 12 has it)"
            )
        part = _SOURCE.with_name(_SOURCE.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        run("tar", "xf", archive, "-C", part, "--strip-components=1")
        part.rename(_SOURCE)

"""The project's images: which there are, of which files, and whether they have to be built.

FedKube's own code changes all the time and is small; what it needs is large and changes seldom. So
the images here differ from what `docker build` would make of the same Dockerfiles in one thing: the
code is the last layer of each, also of those that are built FROM fedkube-client. A change of the
code then costs seconds.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import buildah, packages, settings
from tests.cluster.shell import ClusterError, write

VERSION = "0.1.0"
CLIENT = "fedkube-client"
_CLIENT_DOCKERFILE = "clients/Dockerfile"
_RUNTIME_INPUTS = (_CLIENT_DOCKERFILE, ".dockerignore")
_CODE_INPUTS = ("fedkube", "server/fedkube_server", "clients/fedkube_client")
_NOT_INPUTS = ("__pycache__", ".pyc")
# Where clients/Dockerfile puts the code, and with which stage everything else ends.
_CODE = "/usr/lib/fedkube"
_RUNTIME = "runtime"
_CODE_STAGE = "code"
# The stage before the runtime. It has a name of its own here, or its layers would be forgotten.
_PACKAGES = "packages"


@dataclass(frozen=True)
class DerivedImage:
    """An image FROM fedkube-client."""

    name: str
    dockerfile: str
    context: str
    # Files and folders that go in, from the project's root.
    inputs: tuple[str, ...] = ()


DERIVED = (
    DerivedImage("fedkube-coordinator", "fedkube/coordinator/Dockerfile", "."),
    DerivedImage(
        "fedkube-digits", "examples/digits/Dockerfile", "examples/digits", ("examples/digits",)
    ),
)


@dataclass(frozen=True)
class Built:
    """An image in buildah's store, and the name that a cluster is to know it by."""

    stored: str
    reference: str
    key: str


def digest(root: Path, names: Iterable[str]) -> str:
    """Of the files, or of all files of the folders: their names, contents and right to run."""
    seen = hashlib.sha256()
    for name in names:
        start = root / name
        if not start.exists():
            raise ClusterError(f"{start} is not there: an image is made of it")
        files = sorted(start.rglob("*")) if start.is_dir() else [start]
        for path in files:
            if not path.is_file() or any(part in str(path) for part in _NOT_INPUTS):
                continue
            runs = path.stat().st_mode & 0o100
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            seen.update(f"{path.relative_to(root)} {runs} {content}\n".encode())
    return seen.hexdigest()[:16]


def requirements(pyproject: str) -> str:
    """Of pyproject.toml, what is installed by it: not how it is linted and tested."""
    told = tomllib.loads(pyproject)
    return repr((told["build-system"], told["project"], told["tool"]["hatch"]))


def key_of(*parts: str) -> str:
    """What names a content that follows from these."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build_all() -> list[Built]:
    """Build what changed, forget what is of no use any more; all images of the cluster."""
    packages.install(packages.IMAGE_TOOLS)
    builder = _Builder()
    pause = builder.pause()
    base = builder.base()
    runtime = builder.runtime(base)
    code = builder.code()
    images = [
        pause,
        builder.client(runtime, code),
        *(builder.derived(each, runtime, code) for each in DERIVED),
    ]
    buildah.forget_others(builder.kept)
    return images


class _Builder:
    """Builds what the store lacks, and remembers what was asked for."""

    def __init__(self) -> None:
        self.kept: list[str] = [buildah.BASE]
        self._log = settings.CACHE / "build.log"
        self._log.unlink(missing_ok=True)

    def base(self) -> str:
        """The base image's key."""
        key = key_of(buildah.BASE_RECIPE)
        stored = self._keep(f"localhost/base:{key}")
        if not (buildah.has(stored) and buildah.has(buildah.BASE)):
            with _Told("the base image"):
                buildah.make_base((buildah.BASE, stored))
        return key

    def pause(self) -> Built:
        key = key_of(buildah.PAUSE_SOURCE)
        stored = self._keep(f"localhost/pause:{key}")
        if not buildah.has(stored):
            buildah.make_pause((stored,))
        return Built(stored, settings.PAUSE, key)

    def runtime(self, base: str) -> str:
        """The key of what every image has but the code."""
        pyproject = (settings.ROOT / "pyproject.toml").read_text()
        key = key_of(base, digest(settings.ROOT, _RUNTIME_INPUTS), requirements(pyproject))
        for stage in (_PACKAGES, _RUNTIME):
            stored = self._keep(f"localhost/{CLIENT}-{stage}:{key}")
            if not buildah.has(stored):
                with _Told(f"what {CLIENT} needs: {stage}"):
                    dockerfile = settings.ROOT / _CLIENT_DOCKERFILE
                    self._build(dockerfile, settings.ROOT, stored, "--target", stage)
        return key

    def code(self) -> str:
        """The name of an image that holds FedKube's code."""
        key = key_of(digest(settings.ROOT, (_CLIENT_DOCKERFILE, ".dockerignore", *_CODE_INPUTS)))
        stored = self._keep(f"localhost/{CLIENT}-{_CODE_STAGE}:{key}")
        if not buildah.has(stored):
            with _Told("FedKube's code"):
                dockerfile = settings.ROOT / _CLIENT_DOCKERFILE
                self._build(dockerfile, settings.ROOT, stored, "--target", _CODE_STAGE)
        return stored

    def client(self, runtime: str, code: str) -> Built:
        return self._with_code(CLIENT, f"localhost/{CLIENT}-{_RUNTIME}:{runtime}", code)

    def derived(self, image: DerivedImage, runtime: str, code: str) -> Built:
        own = digest(settings.ROOT, (image.dockerfile, *image.inputs))
        lower = self._keep(f"localhost/{image.name}-{_RUNTIME}:{key_of(runtime, own)}")
        if not buildah.has(lower):
            with _Told(f"what {image.name} needs"):
                context = settings.ROOT / image.context
                start = f"localhost/{CLIENT}-{_RUNTIME}:{runtime}"
                self._build(settings.ROOT / image.dockerfile, context, lower, "--from", start)
        return self._with_code(image.name, lower, code)

    def _with_code(self, name: str, lower: str, code: str) -> Built:
        key = key_of(lower, code)
        stored = self._keep(f"localhost/{name}:{key}")
        if not buildah.has(stored):
            with _Told(name), tempfile.TemporaryDirectory() as folder:
                text = f"FROM {lower}\nCOPY --from={code} {_CODE} {_CODE}\n"
                self._build(write(Path(folder) / "Dockerfile", text), Path(folder), stored)
        return Built(stored, f"docker.io/library/{name}:{VERSION}", key)

    def _build(self, dockerfile: Path, context: Path, tag: str, *options: str) -> None:
        buildah.build(dockerfile, context, tag, *options, log=self._log)

    def _keep(self, stored: str) -> str:
        self.kept.append(stored)
        return stored


class _Told:
    """Says what is being built, and how long it took."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        print(f"cluster: building {self._what}", flush=True)
        self._began = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            took = time.monotonic() - self._began
            print(f"cluster: built {self._what} in {took:.0f} s", flush=True)

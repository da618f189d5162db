"""The project's images: which there are, of which files, and whether they have to be built."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import buildah, packages, settings
from tests.cluster.shell import ClusterError

VERSION = "0.1.0"
_NOT_INPUTS = ("__pycache__", ".pyc")


@dataclass(frozen=True)
class ProjectImage:
    """An image that a Dockerfile of the project makes."""

    name: str
    dockerfile: str
    parent: str
    inputs: tuple[str, ...]
    context: str = "."
    # A stage whose layers are worth keeping: it changes seldom and takes long.
    stage: str = ""


IMAGES = (
    ProjectImage(
        "fedkube-client",
        "clients/Dockerfile",
        parent="base",
        inputs=(
            *("pyproject.toml", "README.md", "LICENSE", ".dockerignore"),
            *("fedkube", "server/fedkube_server", "clients/fedkube_client"),
        ),
        stage="packages",
    ),
    ProjectImage(
        "fedkube-coordinator",
        "fedkube/coordinator/Dockerfile",
        parent="fedkube-client",
        inputs=(),
    ),
    ProjectImage(
        "fedkube-digits",
        "examples/digits/Dockerfile",
        parent="fedkube-client",
        inputs=("examples/digits",),
        context="examples/digits",
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


def keys(root: Path, images: Iterable[ProjectImage], base: str) -> dict[str, str]:
    """By image: what names its content. It follows from its files, and from its parent's key."""
    found = {"base": base}
    for image in images:
        own = digest(root, (image.dockerfile, *image.inputs))
        found[image.name] = _hashed(f"{found[image.parent]} {own}")
    return found


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_all() -> list[Built]:
    """Build what changed, forget what is of no use any more; all images of the cluster."""
    packages.install(packages.IMAGE_TOOLS)
    base_key, pause_key = _hashed(buildah.BASE_RECIPE), _hashed(buildah.PAUSE_SOURCE)
    base = f"localhost/base:{base_key}"
    if not (buildah.has(base) and buildah.has(buildah.BASE)):
        with _Told("the base image"):
            buildah.make_base((buildah.BASE, base))
    pause = Built(f"localhost/pause:{pause_key}", settings.PAUSE, pause_key)
    if not buildah.has(pause.stored):
        buildah.make_pause((pause.stored,))
    all_keys = keys(settings.ROOT, IMAGES, base_key)
    built = [pause, *(_built(image, all_keys) for image in IMAGES)]
    buildah.forget_others(
        [
            *(each.stored for each in built),
            *(f"localhost/{image.name}:{VERSION}" for image in IMAGES),
            *(_stage(image) for image in IMAGES if image.stage),
            *(base, buildah.BASE),
        ]
    )
    return built


def _stage(image: ProjectImage) -> str:
    return f"localhost/{image.name}-{image.stage}:{VERSION}"


def _built(image: ProjectImage, all_keys: Mapping[str, str]) -> Built:
    key = all_keys[image.name]
    stored = f"localhost/{image.name}:{key}"
    # The tag of the version is what Dockerfiles build on: it may not be another build's.
    plain = f"localhost/{image.name}:{VERSION}"
    if not buildah.has(stored):
        dockerfile, context = settings.ROOT / image.dockerfile, settings.ROOT / image.context
        log = settings.CACHE / "build.log"
        with _Told(image.name):
            if image.stage:
                buildah.build(dockerfile, context, (_stage(image),), target=image.stage, log=log)
            buildah.build(dockerfile, context, (plain, stored), log=log)
    return Built(stored, f"docker.io/library/{image.name}:{VERSION}", key)


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

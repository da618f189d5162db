"""Images in the node's containerd, whose root outlives a cluster: only what changed is imported.

Each image is labelled with its key, so that a look at the list tells what is missing.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import buildah
from tests.cluster.node import inside
from tests.cluster.project_images import Built
from tests.cluster.shell import ClusterError, output, run

CTR = ("ctr", "-n", "k8s.io")
_LABEL = "fedkube.local/key"


@dataclass(frozen=True)
class Listed:
    """A line of `ctr images ls`."""

    reference: str
    digest: str
    key: str


def parse(listing: str) -> list[Listed]:
    """What `ctr images ls` printed: REF TYPE DIGEST SIZE PLATFORMS LABELS, SIZE in two words."""
    found = []
    for line in listing.splitlines()[1:]:
        words = line.split()
        labels = dict(each.partition("=")[::2] for each in words[-1].split(","))
        found.append(Listed(words[0], words[2], labels.get(_LABEL, "")))
    return found


def useless(listed: Sequence[Listed], wanted: Iterable[str]) -> list[str]:
    """References to what none of the wanted ones leads to.

    Each image is there a second time under its id: as long as one is, its gigabytes are.
    """
    names = set(wanted)
    digests = {each.digest for each in listed if each.reference in names}
    return [each.reference for each in listed if each.digest not in digests]


def synchronize(images: Sequence[Built]) -> None:
    """Import what is not there, remove what is there and not among these."""
    there = {(each.reference, each.key) for each in _list()}
    for image in images:
        if (image.reference, image.key) in there:
            continue
        began = time.monotonic()
        _import(image)
        run(*inside(*CTR, "images", "label", image.reference, f"{_LABEL}={image.key}"), quiet=True)
        took = time.monotonic() - began
        print(f"cluster: loaded {image.reference} in {took:.1f} s", flush=True)
    if others := useless(_list(), [image.reference for image in images]):
        run(*inside(*CTR, "images", "rm", *others), quiet=True)


def _list() -> list[Listed]:
    return parse(output(*inside(*CTR, "images", "ls")))


def _import(image: Built) -> None:
    archive = buildah.stream(image.stored, image.reference)
    assert archive.stdout is not None
    done = subprocess.run(
        inside(*CTR, "images", "import", "-"),
        stdin=archive.stdout,
        capture_output=True,
        text=True,
        check=False,
    )
    archive.stdout.close()
    if archive.wait() or done.returncode:
        raise ClusterError(f"{image.reference} could not be loaded: {done.stderr.strip()[-400:]}")


def load(archives: Iterable[Path]) -> None:
    """Import archives (docker-archive or oci-archive); they go with the next `images`."""
    for archive in archives:
        run(*inside(*CTR, "images", "import", archive.resolve()), quiet=True)

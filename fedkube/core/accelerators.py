"""What accelerators are called, and how full and how busy one is by its driver's own tool."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

# Of a pod: how many devices of which classes it claims, as JSON. Its own object only names claims.
DEVICES_ANNOTATION = "fedkube.io/devices"

_OF_CLASS = ".deviceclass.resource.k8s.io/devices"

_TOOL = "nvidia-smi"
_TIMEOUT_S = 10.0
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one accelerator: bytes of its memory, and the share of the last moment that it computed.

    ``busy``: None where the driver does not say.
    """

    used_bytes: int
    total_bytes: int
    busy: float | None = None


def of_class(name: str) -> str:
    """Devices of a class that a cluster gives out by claims: as its quotas call them."""
    return name + _OF_CLASS


def class_in(resource: str) -> str:
    """The class that ``of_class`` was told of; empty where it is another kind of resource."""
    return resource.removesuffix(_OF_CLASS) if resource.endswith(_OF_CLASS) else ""


def ids() -> tuple[str, ...]:
    """Of those that there are, as the driver numbers them."""
    return tuple(_ask("index") or ())


def read(accelerator: str = "") -> Reading | None:
    """What is so now; None where nobody can tell. "": the first, as in a container that has one."""
    lines = _ask("memory.used,memory.total,utilization.gpu", accelerator)
    if not lines:
        return None
    used, total, busy = (each.strip() for each in (lines[0] + ",,").split(",")[:3])
    if not (used.isdigit() and total.isdigit() and int(total)):
        return None  # as of a slice of one: "[N/A]"
    return Reading(int(used) * _MIB, int(total) * _MIB, int(busy) / 100 if busy.isdigit() else None)


def _ask(fields: str, accelerator: str = "") -> list[str] | None:
    tool = shutil.which(_TOOL)
    if tool is None:
        return None
    of = [f"--id={accelerator}"] if accelerator else []
    try:
        told = subprocess.run(
            [tool, *of, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.splitlines()

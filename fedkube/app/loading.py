"""Loading an app's code, and what has to be set up around it."""

from __future__ import annotations

import functools
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flwr.supercore.object_ref import load_app
from flwr.supercore.task_identity import TaskIdentity

from fedkube.app.tracebacks import of_app
from fedkube.core.errors import AppInvalid

# Flower asks home unless told not to.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")


class _NoSuchAttributeError(Exception):
    """What Flower's loader raises where a module has no such attribute."""


def load(reference: str, folder: str | Path, kind: type) -> Any:
    """The app that ``reference`` names; AppInvalid, with the app's own traceback, if it fails."""
    module = reference.partition(":")[0]
    try:
        app = load_app(reference, _NoSuchAttributeError, folder)
    except _NoSuchAttributeError as error:
        raise AppInvalid(
            f"the app has no {reference!r}: module {module!r} lacks the attribute",
            hint="correct [tool.flwr.app.components] in the app's pyproject.toml",
            details=str(error.__cause__ or ""),
        ) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the app's module raises
        raise AppInvalid(
            f"the app's module {module!r} cannot be imported: {type(error).__name__}: {error}",
            hint="install what it needs, or mend it; its traceback is above",
            details=of_app(error, folder),
        ) from None
    if not isinstance(app, kind):
        raise AppInvalid(f"{reference!r} is a {type(app).__name__}, and must be a {kind.__name__}")
    return app


def identify(run: int, node: int, task: int) -> None:
    """Tell Flower's ``Message`` who is speaking in this process."""
    TaskIdentity.run_id = run
    TaskIdentity.node_id = node
    TaskIdentity.task_id = task


def seed_everything(seed: int) -> None:
    """Set the global generators of Python, NumPy and, where the app has loaded it, PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if _has_accelerator(torch):
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@functools.cache
def _has_accelerator(torch: Any) -> bool:
    """Whether PyTorch has, or may have, a device here that is seeded, too.

    ``manual_seed`` takes down the call stack for each kind of device that is not there, which costs
    more than most else of a short call.
    """
    accelerator = getattr(torch, "accelerator", None)  # since 2.6
    # Asked first: unlike ``is_available``, it leaves CUDA to those that the app forks.
    return accelerator is None or torch.cuda.device_count() > 0 or accelerator.is_available()

"""Errors, sorted by what the caller does next.

::

    FedKubeError
    ├── Usage          the command line is wrong            -> correct it
    ├── AppInvalid     the app cannot be loaded             -> mend the app
    ├── Environment    this machine lacks something         -> free it, install it
    ├── Superseded     another process goes on with this    -> leave all as it is, and end
    ├── Gone           what was watched is no more          -> begin another
    └── Rejected       what a peer sent breaks a rule       -> drop it, tell the peer

Every error is one sentence that says what is wrong, and where possible a hint that says what to do.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the ``fedkube`` command, as the reference documents them."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    APP_INVALID = 3
    RUN_FAILED = 4
    ENVIRONMENT = 5
    STOPPED = 130


# Exit code of a worker that has left its device to those it shared it with.
GAVE_WAY = 75


class FedKubeError(Exception):
    """An error that a person is meant to read.

    ``details`` is text that belongs beside the sentence and not in it, such as an app's traceback.
    """

    exit_code = Exit.INTERNAL

    def __init__(self, message: str, *, hint: str = "", details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class Usage(FedKubeError):
    """The command line or an option's value is wrong; nothing was started."""

    exit_code = Exit.USAGE


class AppInvalid(FedKubeError):
    """The folder is no Flower app, or its code cannot be loaded."""

    exit_code = Exit.APP_INVALID


class Environment(FedKubeError):
    """This machine lacks something: a free port, disk space, a package."""

    exit_code = Exit.ENVIRONMENT


class Superseded(FedKubeError):
    """Another process has taken this one's place, which must not touch anything any more."""

    exit_code = Exit.ENVIRONMENT


class Gone(FedKubeError):
    """What was watched was deleted meanwhile."""

    exit_code = Exit.RUN_FAILED


class Rejected(FedKubeError):
    """What a peer sent breaks a rule of the exchange."""

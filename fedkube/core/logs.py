"""FedKube's own log lines. The root logger is the app's: what it sets up there is left alone."""

from __future__ import annotations

import logging


def to_stderr(level: int = logging.WARNING) -> None:
    """Write the lines of the ``fedkube`` loggers to stderr."""
    logger = logging.getLogger("fedkube")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("fedkube: %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False

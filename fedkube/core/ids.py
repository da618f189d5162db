"""Names and numbers that identify things, and the seeds that make a run repeatable."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

_MASK_63 = (1 << 63) - 1


def run_id(app_name: str, started_at: datetime, entropy: bytes) -> str:
    """A run's id, sortable by time: ``20261123-151122-digits-4f1c``.

    ``entropy``: random bytes that keep two runs of one second apart.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", app_name.lower()).strip("-")[:30].rstrip("-") or "app"
    return f"{started_at:%Y%m%d-%H%M%S}-{slug}-{entropy.hex()[:4]}"


def derive(*parts: str | int) -> int:
    """A number in [1, 2**63) that depends on every part and on nothing else.

    Seeds and node ids come from here, so that the same run seed gives the same clients, the same
    cohorts and the same client randomness, whichever worker serves a client and in what order.
    """
    text = "\x1f".join([f"{type(part).__name__}:{part}" for part in parts])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") & _MASK_63) or 1


def first_number(entropy: bytes) -> int:
    """Where a process begins to number what others hear of, so that no other life of it has those.

    A worker outlives its server: what it still has of an earlier life must not be taken for
    something else. ``entropy``: 6 random bytes. Two lives of a million numbers each meet with a
    chance of 1 in 2**41.
    """
    return int.from_bytes(entropy, "little") << 14 | 1


def node_id(seed: int, partition: int) -> int:
    """The node id that Flower apps see for a logical client of a pool."""
    return derive("node", seed, partition)


def call_seed(seed: int, partition: int, call: int) -> int:
    """What a client's random generators start from in its ``call``-th call of the run."""
    return derive("call", seed, partition, call)

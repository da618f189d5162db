"""The limits of the exchange, in one place. A peer that crosses one is refused, not trusted."""

from __future__ import annotations

# Both ends must speak the same version of the frames.
PROTOCOL = 1

# Payload of one data frame. Of 64 KiB to 16 MiB, 1 MiB is the fastest over loopback mTLS.
CHUNK_BYTES = 1024 * 1024

# A control frame: names, shapes, metrics and configs, never arrays.
CONTROL_BYTES = 16 * 1024 * 1024

# What gRPC is told to accept: a whole control frame or data frame, and its first bytes.
MESSAGE_BYTES = CONTROL_BYTES + 64

# A value of a config record above this travels as a blob.
INLINE_BYTES = 16 * 1024

MAX_BLOBS = 10_000
MAX_RANK = 8
MAX_REPLY_BYTES = 64 * 1024**3
DIGEST_BYTES = 32

"""The limits of the exchange, in one place. A peer that crosses one is refused, not trusted."""

from __future__ import annotations

# Both ends must speak the same version of the frames.
PROTOCOL = 4

# Payload of one data frame. Of 64 KiB to 16 MiB, 1 MiB is the fastest over loopback mTLS.
CHUNK_BYTES = 1024 * 1024

# A blob that does not end in a frame is cut at a multiple of this, so that whole blocks of elements
# come together (fedkube.core.partial_sums).
STEP_BYTES = 256 * 1024

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

# So often a blob may come with a wrong digest before its sender is given up.
MAX_CORRUPT = 3

# A reply of more bytes than this waits until the server asks for them (*credit*).
UNASKED_BYTES = 256 * 1024

# A server says how far an upload has come whenever so many bytes more have.
RECEIVED_BYTES = 512 * 1024

# A server that answers faster than this is near: it is sent one data frame at a time.
NEAR_S = 0.005

# A server takes large replies from so many workers at a time; one that is slow does not count.
UPLOADS = 2
SLOW_BYTES_PER_S = 8 * 1024 * 1024

# Nor do so many that are slower than this, and so than a server, when they have sent for a moment:
# a link of 100 Mbit/s fills no server.
MODERATE_BYTES_PER_S = 64 * 1024 * 1024
MODERATE_UPLOADS = 16
MODERATE_AFTER_S = 0.25

# A reply whose bytes come slower than this, for so long, is given up together with its session.
MIN_BYTES_PER_S = 1024
MIN_RATE_WINDOW_S = 20.0

# Replies are held in memory up to so many bytes in all, and in files beyond.
HEAP_BYTES = 32 * 1024 * 1024

# Bytes that the arrays of one assignment's replies may have, about.
BATCH_BYTES = 8 * 1024 * 1024

# Short calls are given out together, about so many seconds' worth, and at most so many.
BATCH_S = 0.05
BATCH_CALLS = 256

# What takes no longer is not left to a worker that comes later: an assignment costs milliseconds.
LEAST_S = 0.005

# When a round is closed, sums that workers hold are asked for. A worker that says nothing for so
# long is not waited for; a relay first has to find out which of its workers it has lost.
HELD_S = 5.0
RELAY_HELD_S = 40.0

# How long a worker may take to say who it is.
HELLO_S = 20.0

# How long a worker that was cut off may take to come back before what it had is given to others.
RESUME_S = 10.0

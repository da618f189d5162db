"""What a misbehaving client can do with the reply that it ought to send.

Each function takes the honest reply and returns what the ClientApp returns instead, if
it lives long enough to return anything.
"""

import fcntl
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord

ERROR_TEXT = "deliberate failure of the ClientApp"
ERROR_CODE = 42
EXIT_CODE = 3
HANG_SECONDS = 3600.0
FLOOD_LINES = 200_000


def weights_of(reply: Message) -> np.ndarray:
    """Return the weights in a reply, float32 of shape (size,)."""
    return reply.content["arrays"]["0"].numpy()


def send_array(reply: Message, array: Array) -> Message:
    """Replace the weights in a reply."""
    reply.content["arrays"] = ArrayRecord({"0": array})
    return reply


# --- The client does not return ---------------------------------------------------------


def do_raise(reply: Message) -> Message:
    """Raise an ordinary exception."""
    raise ValueError(ERROR_TEXT)


def do_hang(reply: Message) -> Message:
    """Sleep for an hour."""
    time.sleep(HANG_SECONDS)
    return reply


def do_spin(reply: Message) -> Message:
    """Compute for an hour without giving up the interpreter lock for long."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        pass
    return reply


def do_fork(reply: Message) -> Message:
    """Leave a child behind that holds whatever this process holds, and hang."""
    if os.fork() == 0:
        time.sleep(HANG_SECONDS)
        os._exit(0)
    return do_hang(reply)


def do_exit(reply: Message) -> Message:
    """End the process at once, without cleaning up."""
    os._exit(EXIT_CODE)


def do_system_exit(reply: Message) -> Message:
    """Raise SystemExit, which `except Exception` does not catch."""
    sys.exit(EXIT_CODE)


def do_keyboard_interrupt(reply: Message) -> Message:
    """Raise KeyboardInterrupt, which `except Exception` does not catch."""
    raise KeyboardInterrupt(ERROR_TEXT)


def do_sigkill(reply: Message) -> Message:
    """Die as if the kernel had run out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return reply


def do_segv(reply: Message) -> Message:
    """Die as if native code had used a bad pointer."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return reply


def do_recursion(reply: Message) -> Message:
    """Raise RecursionError."""
    return do_recursion(reply)


def do_memory(reply: Message) -> Message:
    """Raise MemoryError without using any memory."""
    raise MemoryError(ERROR_TEXT)


# Open files of the places that this process has taken; their locks end with it.
_TAKEN: list[Any] = []


def do_crowd(reply: Message) -> Message:
    """Take one of the places in the folder $PLACES until the process ends, or run out of memory."""
    for place in sorted(Path(os.environ["PLACES"]).iterdir()) if not _TAKEN else ():
        file = place.open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _TAKEN.append(file)
            break
    if not _TAKEN:
        raise RuntimeError("CUDA error: out of memory")
    return reply


# --- The client returns something else than a reply with content --------------------------


def return_none(reply: Message) -> Any:
    """Return nothing."""
    return None


def return_dict(reply: Message) -> Any:
    """Return a dictionary instead of a message."""
    return {"arrays": [1.0], "num-examples": 1}


def return_error(reply: Message) -> Message:
    """Return a proper message that carries an error instead of content."""
    # Without the instruction at hand, the metadata has to come from the honest reply.
    return Message(Error(code=ERROR_CODE, reason=ERROR_TEXT), metadata=reply.metadata)


def return_new_message(reply: Message) -> Message:
    """Return a message that is no reply to anything."""
    return Message(reply.content, dst_node_id=reply.metadata.dst_node_id, message_type="train")


# --- The arrays are wrong -----------------------------------------------------------------


def send_nan(reply: Message) -> Message:
    """Make one weight NaN."""
    weights = weights_of(reply)
    weights[0] = np.nan
    return send_array(reply, Array(weights))


def send_inf(reply: Message) -> Message:
    """Make one weight infinite."""
    weights = weights_of(reply)
    weights[0] = np.inf
    return send_array(reply, Array(weights))


def send_shape(reply: Message) -> Message:
    """Send one weight too many."""
    return send_array(reply, Array(np.append(weights_of(reply), np.float32(0.0))))


def send_names(reply: Message) -> Message:
    """Use another name for the array."""
    reply.content["arrays"] = ArrayRecord({"renamed": Array(weights_of(reply))})
    return reply


def send_float64(reply: Message) -> Message:
    """Send the right values as float64 instead of float32."""
    return send_array(reply, Array(weights_of(reply).astype(np.float64)))


def send_strings(reply: Message) -> Message:
    """Send text instead of numbers."""
    return send_array(reply, Array(weights_of(reply).astype(str)))


def send_objects(reply: Message) -> Message:
    """Send an array of Python objects, which NumPy can only store as a pickle."""
    weights = weights_of(reply)
    buffer = io.BytesIO()
    np.save(buffer, weights.astype(object), allow_pickle=True)
    return send_array(reply, Array("object", weights.shape, "numpy.ndarray", buffer.getvalue()))


def send_garbage(reply: Message) -> Message:
    """Send bytes that are no array."""
    return send_array(reply, Array("float32", (16,), "numpy.ndarray", b"not an array"))


def send_false_header(reply: Message) -> Message:
    """Declare another shape and dtype than the bytes hold."""
    data = reply.content["arrays"]["0"].data
    return send_array(reply, Array("int8", (1, 2, 3), "numpy.ndarray", data))


def send_unknown_stype(reply: Message) -> Message:
    """Declare an encoding that nobody knows."""
    array = reply.content["arrays"]["0"]
    return send_array(reply, Array(array.dtype, array.shape, "unknown.encoding", array.data))


def send_no_arrays(reply: Message) -> Message:
    """Leave the arrays out."""
    del reply.content["arrays"]
    return reply


def send_extra_arrays(reply: Message) -> Message:
    """Send two records of arrays."""
    reply.content["more-arrays"] = ArrayRecord([weights_of(reply)])
    return reply


# --- The metrics are wrong ----------------------------------------------------------------


def send_no_metrics(reply: Message) -> Message:
    """Leave the metrics out."""
    del reply.content["metrics"]
    return reply


def send_metrics(reply: Message, metrics: dict[str, Any]) -> Message:
    """Replace the metrics in a reply."""
    reply.content["metrics"] = MetricRecord(metrics)
    return reply


# --- The reply is right -------------------------------------------------------------------


def flood_output(reply: Message) -> Message:
    """Fill stdout and stderr with some 20 MB each, then reply honestly."""
    line = "x" * 100
    for _ in range(FLOOD_LINES):
        print(line)
        print(line, file=sys.stderr)
    return reply


MISDEEDS: dict[str, Callable[[Message], Any]] = {
    "raise": do_raise,
    "hang": do_hang,
    "spin": do_spin,
    "fork": do_fork,
    "exit": do_exit,
    "system-exit": do_system_exit,
    "keyboard-interrupt": do_keyboard_interrupt,
    "sigkill": do_sigkill,
    "segv": do_segv,
    "recursion": do_recursion,
    "memory": do_memory,
    "crowd": do_crowd,
    "none": return_none,
    "not-a-message": return_dict,
    "error-reply": return_error,
    "not-a-reply": return_new_message,
    "nan": send_nan,
    "inf": send_inf,
    "shape": send_shape,
    "names": send_names,
    "dtype": send_float64,
    "strings": send_strings,
    "object-array": send_objects,
    "garbage": send_garbage,
    "false-header": send_false_header,
    "unknown-stype": send_unknown_stype,
    "no-arrays": send_no_arrays,
    "extra-arrays": send_extra_arrays,
    "no-metrics": send_no_metrics,
    "no-weight": lambda reply: send_metrics(reply, {"loss": 0.0}),
    "zero-weight": lambda reply: send_metrics(reply, {"num-examples": 0}),
    "negative-weight": lambda reply: send_metrics(reply, {"num-examples": -1}),
    "nan-weight": lambda reply: send_metrics(reply, {"num-examples": float("nan")}),
    "list-weight": lambda reply: send_metrics(reply, {"num-examples": [1, 1]}),
    "nan-metric": lambda reply: send_metrics(reply, {"num-examples": 1, "loss": float("nan")}),
    "extra-metric": lambda reply: send_metrics(reply, {"num-examples": 1, "loss": 0.0}),
    "flood": flood_output,
}

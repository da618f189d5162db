"""ClientApp whose mods leave a trace of the order in which they ran.

Every numbered mod appends its digit to `trace` on the way in and to `trace-out` on the
way out, so app mods 1 and 2 around function mod 3 give the traces 123 and 321.
"""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import arrays_size_mod, fixedclipping_mod, message_size_mod
from flwr.clientapp.typing import ClientAppCallable, Mod

UPDATE = 100.0


def numbered_mod(digit: int) -> Mod:
    """Return a mod that appends a digit to both traces."""

    def mod(msg: Message, context: Context, call_next: ClientAppCallable) -> Message:
        config = msg.content["config"]
        config["trace"] = 10 * int(config.get("trace", 0)) + digit
        reply = call_next(msg, context)
        metrics = reply.content["metrics"]
        metrics["trace-out"] = 10 * int(metrics["trace-out"]) + digit
        return reply

    return mod


app = ClientApp(mods=[numbered_mod(1), message_size_mod, numbered_mod(2)])


def trace_metrics(msg: Message) -> MetricRecord:
    """Return the trace so far, for the mods to extend on the way out."""
    trace = int(msg.content["config"]["trace"])
    return MetricRecord({"trace-in": trace, "trace-out": 0, "num-examples": 1})


@app.train(mods=[numbered_mod(3), arrays_size_mod, fixedclipping_mod])
def train(msg: Message, context: Context) -> Message:
    """Return a huge update, for the clipping mod to shorten."""
    arrays = [array + UPDATE for array in msg.content["arrays"].to_numpy_ndarrays()]
    reply = RecordDict({"arrays": ArrayRecord(arrays), "metrics": trace_metrics(msg)})
    return Message(reply, reply_to=msg)


@app.evaluate(mods=[numbered_mod(4)])
def evaluate(msg: Message, context: Context) -> Message:
    """Return the trace and the mean of the model."""
    metrics = trace_metrics(msg)
    metrics["mean"] = float(np.mean(msg.content["arrays"].to_numpy_ndarrays()[0]))
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)

"""ClientApp whose culprits do what the run config's `mode` says.

`culprit` is a partition number, or -1 for all; `at-round` is a round, or 0 for all.
Every other call adds one to each weight, so the mean of a healthy global model equals
the number of completed rounds.
"""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from misbehave_app.misdeeds import MISDEEDS

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Add one to every weight, and misbehave if this is the call for it."""
    if nap := float(context.run_config["sleep"]):
        print(f"client {context.node_config['partition-id']} begins")
        time.sleep(nap)
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    reply = honest_reply(msg, weights + np.float32(1.0))
    mode = str(context.run_config["mode"])
    if mode == "ok" or not is_misdeed_due(msg, context):
        return reply
    return MISDEEDS[mode](reply)


def honest_reply(msg: Message, weights: np.ndarray) -> Message:
    """Create the reply of a well-behaved client from weights of shape (size,)."""
    content = RecordDict(
        {"arrays": ArrayRecord([weights]), "metrics": MetricRecord({"num-examples": 1})}
    )
    return Message(content, reply_to=msg)


def is_misdeed_due(msg: Message, context: Context) -> bool:
    """Tell whether this client misbehaves in this round."""
    culprit = int(context.run_config["culprit"])
    at_round = int(context.run_config["at-round"])
    is_culprit = culprit in (-1, int(context.node_config["partition-id"]))
    return is_culprit and at_round in (0, int(msg.content["config"]["server-round"]))

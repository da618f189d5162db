"""ClientApp that adds one to each weight, and counts its calls in what it keeps.

The clients with the partitions below `slow` take `slow-seconds`, the others `seconds`.
"""

import time

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Add one, after a while."""
    calls = int(context.state["calls"]["n"]) if "calls" in context.state else 0
    context.state["calls"] = ConfigRecord({"n": calls + 1})
    config = context.run_config
    is_slow = int(context.node_config["partition-id"]) < int(config["slow"])
    time.sleep(float(config["slow-seconds" if is_slow else "seconds"]))
    arrays = ArrayRecord([weights + 1 for weights in msg.content["arrays"].to_numpy_ndarrays()])
    metrics = MetricRecord({"num-examples": 1, "calls": calls + 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Report the first weight."""
    first = float(msg.content["arrays"].to_numpy_ndarrays()[0][0])
    metrics = MetricRecord({"num-examples": 1, "first": first})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)

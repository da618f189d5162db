"""ClientApp that only registers functions with custom actions."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train("adapt")
def adapt(msg: Message, context: Context) -> Message:
    """Add the partition number to the vector; echo what the message's metadata says."""
    (vector,) = msg.content["arrays"].to_numpy_ndarrays()
    vector = vector + int(context.node_config["partition-id"])
    metrics = MetricRecord({"group": int(msg.metadata.group_id), "ttl": float(msg.metadata.ttl)})
    reply = RecordDict({"arrays": ArrayRecord([vector]), "metrics": metrics})
    return Message(reply, reply_to=msg)


@app.evaluate("probe")
def probe(msg: Message, context: Context) -> Message:
    """Return the mean of the vector."""
    (vector,) = msg.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"mean": float(np.mean(vector))})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)


@app.query("stats")
def stats(msg: Message, context: Context) -> Message:
    """Return lists of numbers that only this partition has."""
    partition = int(context.node_config["partition-id"])
    metrics = MetricRecord(
        {"integers": [partition, 2 * partition], "floats": [partition + 0.5], "count": 1}
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)

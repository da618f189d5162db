"""ClientApp that keeps a counter, a note and a running sum in its state."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Add the received vector, times the partition number plus one, to the running sum."""
    (received,) = msg.content["arrays"].to_numpy_ndarrays()
    partition = int(context.node_config["partition-id"])

    if "counter" not in context.state:
        context.state["counter"] = MetricRecord({"calls": 0})
        context.state["notes"] = ConfigRecord({"history": "", "partition-id": partition})
        context.state["sum"] = ArrayRecord([np.zeros_like(received)])

    counter, notes = context.state["counter"], context.state["notes"]
    counter["calls"] += 1
    notes["history"] += f"{int(msg.content['config']['server-round'])};"
    (running_sum,) = context.state["sum"].to_numpy_ndarrays()
    running_sum = running_sum + (partition + 1) * received
    context.state["sum"] = ArrayRecord([running_sum])

    metrics = MetricRecord(
        {
            "calls": counter["calls"],
            "history-length": len(notes["history"].split(";")) - 1,
            "same-partition": int(notes["partition-id"] == partition),
        }
    )
    reply = RecordDict({"arrays": ArrayRecord([running_sum]), "metrics": metrics})
    return Message(reply, reply_to=msg)

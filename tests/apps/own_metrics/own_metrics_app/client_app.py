"""ClientApp that adds its partition to each weight."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Return the arrays, each element larger by the client's partition."""
    partition = context.node_config["partition-id"]
    arrays = {
        name: Array(array.numpy() + partition) for name, array in msg.content["arrays"].items()
    }
    metrics = MetricRecord({"num-examples": 1})
    reply = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(reply, reply_to=msg)

"""ClientApp that returns the arrays it gets, or with `change` each of them plus one."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Return the arrays."""
    arrays = msg.content["arrays"]
    if context.run_config["change"]:
        arrays = ArrayRecord({name: Array(array.numpy() + 1) for name, array in arrays.items()})
    metrics = MetricRecord({"num-examples": 1})
    reply = RecordDict({"arrays": arrays, "metrics": metrics})
    return Message(reply, reply_to=msg)

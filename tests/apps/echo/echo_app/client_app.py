"""ClientApp that returns the arrays it gets."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Return the arrays unchanged."""
    metrics = MetricRecord({"num-examples": 1})
    reply = RecordDict({"arrays": msg.content["arrays"], "metrics": metrics})
    return Message(reply, reply_to=msg)

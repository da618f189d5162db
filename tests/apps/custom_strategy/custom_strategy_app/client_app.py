"""ClientApp that adds the step it is told to every weight."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Add the step."""
    config = msg.content["config"]
    arrays = [array + config["step"] for array in msg.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({"place": int(config["place"]), "num-examples": 1})
    reply = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(reply, reply_to=msg)

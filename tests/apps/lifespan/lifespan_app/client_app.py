"""ClientApp that counts in its state how often its lifespan began and ended."""

from collections.abc import Iterator

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.lifespan()
def lifespan(context: Context) -> Iterator[None]:
    """Count entries before and exits after each message."""
    if "lifespan" not in context.state:
        context.state["lifespan"] = MetricRecord({"entered": 0, "exited": 0})
    context.state["lifespan"]["entered"] += 1
    yield
    context.state["lifespan"]["exited"] += 1


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Return the arrays unchanged and the counts, which include the current entry."""
    counts = context.state["lifespan"]
    metrics = MetricRecord(
        {"entered": counts["entered"], "exited": counts["exited"], "num-examples": 1}
    )
    arrays = ArrayRecord(msg.content["arrays"].to_numpy_ndarrays())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)

"""ClientApp that adds what it finds in a file of its node, and tells what it can see."""

from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Add the number in `value.txt` of the node's `data` folder; 0 without such a folder."""
    told = context.node_config
    folder = Path(str(told["data"])) if "data" in told else None
    value = float((folder / "value.txt").read_text()) if folder else 0.0
    seen = sorted(path.name for path in folder.iterdir()) if folder else []
    arrays = ArrayRecord(
        {
            name: Array(array.numpy() + value) if folder else array
            for name, array in msg.content["arrays"].items()
        }
    )
    node = {"site": str(told.get("site", "")), "partition": told["partition-id"], "seen": seen}
    metrics = MetricRecord({"num-examples": 1, "value": value})
    reply = {"arrays": arrays, "metrics": metrics, "node": ConfigRecord(node)}
    return Message(RecordDict(reply), reply_to=msg)

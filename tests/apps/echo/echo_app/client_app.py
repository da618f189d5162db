"""ClientApp that returns the arrays it gets, or with `change` some of them plus one.

`changed-tensors`: how many, from the first on; 0 for all.
"""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Return the arrays."""
    arrays = msg.content["arrays"]
    if context.run_config["change"]:
        changed = list(arrays)[: context.run_config["changed-tensors"] or None]
        arrays = ArrayRecord(
            {
                name: Array(array.numpy() + 1) if name in changed else array
                for name, array in arrays.items()
            }
        )
    metrics = MetricRecord({"num-examples": 1})
    reply = RecordDict({"arrays": arrays, "metrics": metrics})
    return Message(reply, reply_to=msg)

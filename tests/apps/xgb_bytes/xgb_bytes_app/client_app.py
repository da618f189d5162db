"""ClientApp that contributes one tree per round."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from xgb_bytes_app.trees import booster, from_arrays, one_tree_model, to_arrays

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Return a tree whose leaf is the partition number plus one."""
    leaf = int(context.node_config["partition-id"]) + 1
    reply = RecordDict(
        {
            "arrays": to_arrays(one_tree_model(leaf)),
            "metrics": MetricRecord({"trees-received": trees_in(msg), "num-examples": 1}),
        }
    )
    return Message(reply, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Return the number of trees in the global model."""
    metrics = MetricRecord({"trees-received": trees_in(msg), "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)


def trees_in(msg: Message) -> int:
    """Count the trees of the model in a message."""
    model = from_arrays(msg.content["arrays"])
    return len(booster(model)["trees"]) if model is not None else 0

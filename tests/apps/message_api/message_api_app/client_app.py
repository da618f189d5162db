"""ClientApp with one function per message category."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from message_api_app.task import Data, fit, load_data, mean_squared_error

app = ClientApp()


def local_data(context: Context) -> Data:
    """Return this client's features and targets."""
    partition = int(context.node_config["partition-id"])
    return load_data(partition, int(context.run_config["data-seed"]))


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train on local data."""
    data = local_data(context)
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    weights = fit(
        weights,
        data,
        epochs=int(context.run_config["local-epochs"]),
        learning_rate=float(msg.content["config"]["learning-rate"]),
    )
    metrics = MetricRecord(
        {
            "train_loss": mean_squared_error(weights, data),
            "server-round": int(msg.content["config"]["server-round"]),
            "num-examples": len(data[1]),
        }
    )
    reply = RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics})
    return Message(reply, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate on local data."""
    data = local_data(context)
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    metrics = {"eval_loss": mean_squared_error(weights, data), "num-examples": len(data[1])}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


@app.query()
def query(msg: Message, context: Context) -> Message:
    """Describe this client."""
    metrics = {
        "partition-id": int(context.node_config["partition-id"]),
        "num-partitions": int(context.node_config["num-partitions"]),
        "node-id-matches": int(context.node_id == msg.metadata.dst_node_id),
        "run-id-matches": int(context.run_id == msg.metadata.run_id),
    }
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)

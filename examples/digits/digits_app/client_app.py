"""ClientApp: trains and evaluates the global model on one client's images."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_app.task import DigitsCNN, Images, client_images
from digits_app.task import evaluate as evaluate_model
from digits_app.task import train as train_model

app = ClientApp()


def received_model(msg: Message) -> DigitsCNN:
    """Build the model from the weights in a message."""
    model = DigitsCNN()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    return model


def local_images(context: Context) -> tuple[Images, Images]:
    """Return this client's training and evaluation images."""
    return client_images(
        partition_id=int(context.node_config["partition-id"]),
        num_partitions=int(context.node_config["num-partitions"]),
        alpha=float(context.run_config["dirichlet-alpha"]),
        seed=int(context.run_config["data-seed"]),
    )


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train on the local images and return the new weights and the training loss."""
    model = received_model(msg)
    images, _ = local_images(context)
    loss = train_model(
        model,
        images,
        epochs=int(context.run_config["local-epochs"]),
        learning_rate=float(msg.content["config"]["learning-rate"]),
        batch_size=int(context.run_config["batch-size"]),
    )
    reply = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"train_loss": loss, "num-examples": len(images.labels)}),
        }
    )
    return Message(reply, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the global model on the images that this client never trains on."""
    model = received_model(msg)
    _, images = local_images(context)
    loss, accuracy = evaluate_model(model, images)
    metrics = MetricRecord(
        {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(images.labels)}
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)

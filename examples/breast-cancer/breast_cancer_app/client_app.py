"""ClientApp: shares feature sums, then trains and evaluates on local samples."""

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.metrics import accuracy_score, log_loss

from breast_cancer_app.task import (
    CLASSES,
    Samples,
    Scaling,
    client_samples,
    fit,
    model_from_arrays,
    model_to_arrays,
)

app = ClientApp()


def local_samples(context: Context) -> Samples:
    """Return this client's samples."""
    return client_samples(
        partition_id=int(context.node_config["partition-id"]),
        num_partitions=int(context.node_config["num-partitions"]),
        seed=int(context.run_config["data-seed"]),
    )


def received_scaling(msg: Message) -> Scaling:
    """Read the feature scaling that the server put into a message's config."""
    config = msg.content["config"]
    return Scaling(mean=np.array(config["feature-mean"]), std=np.array(config["feature-std"]))


@app.query()
def feature_sums(msg: Message, context: Context) -> Message:
    """Return per-feature sums and sums of squares over the local samples."""
    features = local_samples(context).features
    sums = MetricRecord(
        {
            "num-examples": len(features),
            "sum": features.sum(axis=0).tolist(),
            "sum-of-squares": (features**2).sum(axis=0).tolist(),
        }
    )
    return Message(RecordDict({"sums": sums}), reply_to=msg)


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Continue training the global model on the local samples."""
    samples = local_samples(context)
    scaling = received_scaling(msg)
    model = model_from_arrays(
        msg.content["arrays"],
        max_iter=int(context.run_config["local-iterations"]),
        inverse_regularization=float(context.run_config["inverse-regularization"]),
    )
    fit(model, samples, scaling)
    probabilities = model.predict_proba(scaling.apply(samples.features))
    metrics = MetricRecord(
        {
            "train_loss": float(log_loss(samples.labels, probabilities, labels=CLASSES)),
            "num-examples": len(samples.labels),
        }
    )
    reply = RecordDict({"arrays": model_to_arrays(model), "metrics": metrics})
    return Message(reply, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the global model on the local samples."""
    samples = local_samples(context)
    features = received_scaling(msg).apply(samples.features)
    model = model_from_arrays(msg.content["arrays"])
    probabilities = model.predict_proba(features)
    metrics = MetricRecord(
        {
            "eval_loss": float(log_loss(samples.labels, probabilities, labels=CLASSES)),
            "eval_acc": float(accuracy_score(samples.labels, model.predict(features))),
            "num-examples": len(samples.labels),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)

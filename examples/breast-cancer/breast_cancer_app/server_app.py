"""ServerApp: pools feature statistics, then averages logistic regression models."""

from collections.abc import Callable

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.metrics import accuracy_score, log_loss

from breast_cancer_app.task import (
    CLASSES,
    Scaling,
    initial_arrays,
    model_from_arrays,
    train_and_test_samples,
)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Agree on a feature scaling, train, and print the final test metrics."""
    num_rounds = int(context.run_config["num-server-rounds"])
    scaling = pooled_scaling(grid)
    config = {"feature-mean": scaling.mean.tolist(), "feature-std": scaling.std.tolist()}
    strategy = FedAvg(fraction_train=float(context.run_config["fraction-train"]))
    result = strategy.start(
        grid=grid,
        initial_arrays=initial_arrays(),
        num_rounds=num_rounds,
        train_config=ConfigRecord(dict(config)),
        evaluate_config=ConfigRecord(dict(config)),
        evaluate_fn=central_evaluate_fn(scaling),
    )
    final = result.evaluate_metrics_serverapp[num_rounds]
    print(
        f"Central test set after {num_rounds} rounds: "
        f"accuracy {final['accuracy']:.4f}, log loss {final['loss']:.4f}"
    )


def pooled_scaling(grid: Grid) -> Scaling:
    """Compute the mean and standard deviation of all clients' samples.

    The clients only reveal sums, and the central test set has no part in them.
    """
    queries = [
        Message(RecordDict(), dst_node_id=node_id, message_type=MessageType.QUERY)
        for node_id in grid.get_node_ids()
    ]
    replies = [msg.content["sums"] for msg in grid.send_and_receive(queries) if msg.has_content()]
    if not replies:
        raise RuntimeError("no client answered the query for feature sums")
    count = sum(reply["num-examples"] for reply in replies)
    mean = np.sum([reply["sum"] for reply in replies], axis=0) / count
    mean_square = np.sum([reply["sum-of-squares"] for reply in replies], axis=0) / count
    return Scaling(mean=mean, std=np.sqrt(mean_square - mean**2))


def central_evaluate_fn(scaling: Scaling) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Return a function that evaluates a global model on the central test set."""
    _, samples = train_and_test_samples()
    features = scaling.apply(samples.features)

    def central_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = model_from_arrays(arrays)
        probabilities = model.predict_proba(features)
        return MetricRecord(
            {
                "accuracy": float(accuracy_score(samples.labels, model.predict(features))),
                "loss": float(log_loss(samples.labels, probabilities, labels=CLASSES)),
            }
        )

    return central_evaluate

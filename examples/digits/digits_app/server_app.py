"""ServerApp: federated averaging with evaluation on a central test set."""

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits_app.task import DigitsCNN, evaluate, initial_model, train_and_test_images

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for the configured number of rounds and print the final test accuracy."""
    num_rounds = int(context.run_config["num-server-rounds"])
    strategy = FedAvg(fraction_train=float(context.run_config["fraction-train"]))
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial_model().state_dict()),
        num_rounds=num_rounds,
        train_config=ConfigRecord({"learning-rate": float(context.run_config["learning-rate"])}),
        evaluate_fn=central_evaluate,
    )
    final = result.evaluate_metrics_serverapp[num_rounds]
    print(f"Central test accuracy after {num_rounds} rounds: {final['accuracy']:.4f}")


def central_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate the global model on the test images that no client holds."""
    model = DigitsCNN()
    model.load_state_dict(arrays.to_torch_state_dict())
    _, test_images = train_and_test_images()
    loss, accuracy = evaluate(model, test_images)
    return MetricRecord({"accuracy": accuracy, "loss": loss})

"""ServerApp: one round of queries, then FedAvg."""

import hashlib
import json
from typing import Any

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

from message_api_app.task import TRUE_WEIGHTS, load_data, mean_squared_error

TEST_PARTITION = 1_000_000

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Query all clients, train, and report."""
    values = query_clients(grid)
    num_rounds = int(context.run_config["num-server-rounds"])
    test_data = load_data(TEST_PARTITION, int(context.run_config["data-seed"]))

    def central_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        (weights,) = arrays.to_numpy_ndarrays()
        return MetricRecord({"loss": mean_squared_error(weights, test_data)})

    strategy = FedAvg(
        fraction_train=float(context.run_config["fraction-train"]),
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros_like(TRUE_WEIGHTS)]),
        num_rounds=num_rounds,
        train_config=ConfigRecord({"learning-rate": float(context.run_config["learning-rate"])}),
        evaluate_fn=central_evaluate,
    )
    (weights,) = result.arrays.to_numpy_ndarrays()
    values |= {
        "initial-loss": result.evaluate_metrics_serverapp[0]["loss"],
        "final-loss": result.evaluate_metrics_serverapp[num_rounds]["loss"],
        "final-eval-loss": result.evaluate_metrics_clientapp[num_rounds]["eval_loss"],
        "train-rounds": [
            round(metrics["server-round"]) for metrics in result.train_metrics_clientapp.values()
        ],
        "weight-error": float(np.max(np.abs(weights - TRUE_WEIGHTS))),
        "checksum": hashlib.sha256(weights.tobytes()).hexdigest(),
    }
    report(context, values)


def query_clients(grid: Grid) -> dict[str, Any]:
    """Ask every client who it is and sum the answers up."""
    messages = [
        Message(RecordDict(), dst_node_id=node_id, message_type=MessageType.QUERY)
        for node_id in grid.get_node_ids()
    ]
    replies = list(grid.send_and_receive(messages))
    answers = [reply.content["metrics"] for reply in replies]
    return {
        "nodes": len(messages),
        "replies": len(replies),
        "partition-ids": sorted(answer["partition-id"] for answer in answers),
        "num-partitions": sorted({answer["num-partitions"] for answer in answers}),
        "node-ids-match": sum(answer["node-id-matches"] for answer in answers),
        "run-ids-match": sum(answer["run-id-matches"] for answer in answers),
    }


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

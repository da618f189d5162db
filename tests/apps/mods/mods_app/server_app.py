"""ServerApp: FedAvg with client-side clipping; reports the traces of the mods."""

import json
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

MODEL_SIZE = 16

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured rounds and report."""
    num_rounds = int(context.run_config["num-server-rounds"])
    strategy = DifferentialPrivacyClientSideFixedClipping(
        FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1),
        # No noise, so that the length of the aggregated update stays exact.
        noise_multiplier=0.0,
        clipping_norm=float(context.run_config["clipping-norm"]),
        num_sampled_clients=len(list(grid.get_node_ids())),
    )
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord([np.zeros(MODEL_SIZE)]), num_rounds=num_rounds
    )
    train_metrics = result.train_metrics_clientapp[num_rounds]
    evaluate_metrics = result.evaluate_metrics_clientapp[num_rounds]
    (model,) = result.arrays.to_numpy_ndarrays()
    report(
        context,
        {
            "train-trace-in": round(train_metrics["trace-in"]),
            "train-trace-out": round(train_metrics["trace-out"]),
            "evaluate-trace-in": round(evaluate_metrics["trace-in"]),
            "evaluate-trace-out": round(evaluate_metrics["trace-out"]),
            "model-norm": float(np.linalg.norm(model)),
        },
    )


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

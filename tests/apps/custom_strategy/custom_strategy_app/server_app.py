"""ServerApp: walks past the target and reports the round that came closest."""

import json
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from custom_strategy_app.strategy import BestModelFedAvg

MODEL_SIZE = 4

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy and report."""
    target = float(context.run_config["target"])
    num_rounds = int(context.run_config["num-server-rounds"])
    strategy = BestModelFedAvg()
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(MODEL_SIZE)]),
        num_rounds=num_rounds,
        train_config=ConfigRecord({"step": float(context.run_config["step"])}),
        evaluate_fn=lambda server_round, arrays: MetricRecord(
            {"loss": float(np.abs(arrays.to_numpy_ndarrays()[0] - target).mean())}
        ),
    )
    last_metrics = result.train_metrics_clientapp[num_rounds]
    report(
        context,
        {
            "best-round": strategy.best_round,
            "best-loss": strategy.best_loss,
            "last-loss": result.evaluate_metrics_serverapp[num_rounds]["loss"],
            "model-mean": float(result.arrays.to_numpy_ndarrays()[0].mean()),
            "mean-place": last_metrics["place"],
            "replies": last_metrics["replies"],
        },
    )


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

"""ServerApp: a strategy of Flower's over a vector of zeros; reports its mean at the end."""

import json

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp, strategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and report."""
    config = context.run_config
    chosen = getattr(strategy, str(config["strategy"]))(
        fraction_evaluate=float(config["fraction-evaluate"]),
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
    )
    result = chosen.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(int(config["size"]), dtype=np.float32)]),
        num_rounds=int(config["num-server-rounds"]),
    )
    (weights,) = result.arrays.to_numpy_ndarrays()
    values = {"mean": float(weights.mean()), "equal": bool((weights == weights[0]).all())}
    context.state["result"] = ConfigRecord(values)
    print("RESULT " + json.dumps(values), flush=True)

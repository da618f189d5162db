"""ServerApp: FedAvg, and its result."""

import json

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from clocks_app import jumping

app = ServerApp()
jumping.begin(1)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train a vector of zeros."""
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(16, np.float32)]),
        num_rounds=int(context.run_config["num-server-rounds"]),
        timeout=60.0,
    )
    (vector,) = result.arrays.to_numpy_ndarrays()
    print("RESULT " + json.dumps({"values": sorted({float(each) for each in vector})}), flush=True)

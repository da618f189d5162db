"""ServerApp that raises between two rounds."""

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


def failing_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
    """Raise after the first round."""
    if server_round == 1:
        raise ValueError("deliberate failure of the ServerApp after round 1")
    return None


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train until the evaluation raises."""
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(3)]),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=failing_evaluate,
    )

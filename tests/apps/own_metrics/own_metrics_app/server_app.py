"""ServerApp: FedAvg whose metrics are made of the clients' arrays; another leaves replies out."""

import json

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


def spread(records: list[RecordDict], weighted_by: str) -> MetricRecord:
    """Means of the clients' arrays."""
    means = sorted(
        float(array.numpy().mean()) for record in records for array in record["arrays"].values()
    )
    return MetricRecord({"means": means})


class LeavesOneOut(FedAvg):
    """Averages all replies but the first."""

    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, list(replies)[1:])


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and report the metrics."""
    config = context.run_config
    kind = LeavesOneOut if config["drop"] else FedAvg
    strategy = kind(fraction_evaluate=0.0, train_metrics_aggr_fn=spread if config["look"] else None)
    arrays = ArrayRecord({"w": Array(np.zeros(int(config["size"]), np.float32))})
    result = strategy.start(grid, arrays, num_rounds=int(config["num-server-rounds"]))
    means = result.train_metrics_clientapp[1].get("means", [])
    model = float(result.arrays["w"].numpy().mean())
    print("RESULT " + json.dumps({"means": means, "model": model}))

"""ServerApp that reports when its lifespan ends."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

values: dict[str, Any] = {}


@app.lifespan()
def lifespan(context: Context) -> Iterator[None]:
    """Note the order of events and report after main has returned."""
    values.clear()
    values["server-events"] = ["enter"]
    yield
    values["server-events"].append("exit")
    report(context, values)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and record the clients' counts of every round."""
    values["server-events"].append("main")
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(3)]),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    rounds = result.train_metrics_clientapp.values()
    values["client-entered"] = [round(metrics["entered"], 6) for metrics in rounds]
    values["client-exited"] = [round(metrics["exited"], 6) for metrics in rounds]


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

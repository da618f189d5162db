"""ServerApp that runs Flower's SecAgg+ workflow."""

import json
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

MODEL_SIZE = 5

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the workflow and report its history."""
    strategy = FedAvg(
        min_fit_clients=1,
        min_evaluate_clients=1,
        min_available_clients=1,
        initial_parameters=ndarrays_to_parameters([np.zeros(MODEL_SIZE)]),
        evaluate_fn=lambda server_round, arrays, config: (float(np.mean(arrays[0])), {}),
    )
    legacy_context = LegacyContext(
        context=context,
        config=ServerConfig(num_rounds=int(context.run_config["num-server-rounds"])),
        strategy=strategy,
    )
    secure = SecAggPlusWorkflow(
        num_shares=int(context.run_config["num-shares"]),
        reconstruction_threshold=int(context.run_config["threshold"]),
        timeout=30.0,
    )
    workflow = DefaultWorkflow(fit_workflow=secure)
    workflow(grid, legacy_context)
    history = legacy_context.history
    report(
        context,
        {
            "central-losses": [loss for _, loss in history.losses_centralized],
            "distributed-losses": [loss for _, loss in history.losses_distributed],
        },
    )


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

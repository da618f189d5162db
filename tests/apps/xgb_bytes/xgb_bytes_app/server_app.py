"""ServerApp: FedXgbBagging from an empty model."""

import json
from typing import Any

from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedXgbBagging

from xgb_bytes_app.trees import booster, from_arrays, to_arrays

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Collect trees for the configured rounds and report on the final model."""
    strategy = FedXgbBagging(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    result = strategy.start(
        grid=grid,
        initial_arrays=to_arrays(None),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    model = booster(from_arrays(result.arrays))
    trees = model["trees"]
    report(
        context,
        {
            "trees": len(trees),
            "declared-trees": int(model["gbtree_model_param"]["num_trees"]),
            "ids-in-order": [tree["id"] for tree in trees] == list(range(len(trees))),
            "leaf-sum": sum(tree["base_weights"][0] for tree in trees),
            "trees-at-clients": [
                round(metrics["trees-received"])
                for metrics in result.evaluate_metrics_clientapp.values()
            ],
            "dtype": result.arrays["0"].dtype,
        },
    )


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

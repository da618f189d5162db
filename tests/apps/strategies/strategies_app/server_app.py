"""Runs each strategy twice, on the runtime's grid and on a plain one, and compares the results."""

import json
import random

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as shipped

from strategies_app import client_app
from strategies_app.local_grid import LocalGrid

app = ServerApp()

SPECIAL = {
    "QFedAvg": lambda: shipped.QFedAvg(client_learning_rate=0.1),
    "Krum": lambda: shipped.Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: shipped.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3),
    "Bulyan": lambda: shipped.Bulyan(num_malicious_nodes=1),
    "FedTrimmedAvg": lambda: shipped.FedTrimmedAvg(beta=0.2),
    "FedProx": lambda: shipped.FedProx(proximal_mu=0.5),
    "DifferentialPrivacyServerSideFixedClipping": lambda: (
        shipped.DifferentialPrivacyServerSideFixedClipping(shipped.FedAvg(), 0.5, 1.0, 7)
    ),
    "DifferentialPrivacyClientSideFixedClipping": lambda: (
        shipped.DifferentialPrivacyClientSideFixedClipping(shipped.FedAvg(), 0.5, 1.0, 7)
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": lambda: (
        shipped.DifferentialPrivacyServerSideAdaptiveClipping(shipped.FedAvg(), 0.5, 7)
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": lambda: (
        shipped.DifferentialPrivacyClientSideAdaptiveClipping(shipped.FedAvg(), 0.5, 7)
    ),
}
NOT_STRATEGIES = {"Result", "Strategy"}


@app.main()
def main(grid: Grid, context: Context) -> None:
    rounds = int(context.run_config["num-server-rounds"])
    local = LocalGrid(list(grid.get_node_ids()), grid.run, client_app.app)
    compared = {}
    for name in sorted(set(shipped.__all__) - NOT_STRATEGIES):
        make = SPECIAL.get(name, getattr(shipped, name))
        compared[name] = compare(run(make, name, grid, rounds), run(make, name, local, rounds))
    print("RESULT", json.dumps(compared))


def run(make, name: str, grid: Grid, rounds: int):
    random.seed(5)
    np.random.seed(5)
    config = {"adaptive": "Adaptive" in name}
    if "Xgb" in name:
        config["trees"] = True
        arrays = ArrayRecord([np.zeros(0, np.uint8)])
    else:
        generator = np.random.default_rng(3)
        arrays = ArrayRecord(
            {
                "weights": Array(generator.normal(size=(7, 5)).astype(np.float32)),
                "bias": Array(generator.normal(size=5).astype(np.float32)),
            }
        )
    return make().start(grid, arrays, rounds, train_config=ConfigRecord(config))


def compare(one, other) -> dict[str, object]:
    difference = 0.0
    same_bytes = list(one.arrays) == list(other.arrays)
    for name, array in one.arrays.items():
        left, right = array.numpy(), other.arrays[name].numpy()
        same_bytes &= left.dtype == right.dtype and left.tobytes() == right.tobytes()
        scale = float(np.abs(right).max()) if right.size else 1.0
        gap = np.abs(left.astype(np.float64) - right).max(initial=0.0)
        difference = max(difference, float(gap) / (scale or 1.0))
    same_metrics = (
        one.train_metrics_clientapp == other.train_metrics_clientapp
        and one.evaluate_metrics_clientapp == other.evaluate_metrics_clientapp
    )
    return {
        "same-bytes": bool(same_bytes),
        "difference": difference,
        "same-metrics": same_metrics,
        "rounds": len(one.train_metrics_clientapp),
        "elements": sum(array.numpy().size for array in one.arrays.values()),
    }

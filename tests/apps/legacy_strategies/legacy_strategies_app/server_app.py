"""Runs each strategy of the older API on the runtime's grid and on a plain one, and compares."""

import json
import random

import numpy as np
from flwr.app import Context
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import LegacyContext, ServerConfig
from flwr.server import strategy as shipped
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import Grid, ServerApp

from legacy_strategies_app import client_app
from legacy_strategies_app.local_grid import LocalGrid

app = ServerApp()

OTHER_BYTES = {"FedXgbBagging", "FedXgbCyclic", "FedXgbNnAvg", "FedAvgAndroid"}
NEED_CLIENT_MODS = {
    "DifferentialPrivacyClientSideAdaptiveClipping",
    "DPFedAvgAdaptive",
}
NOT_STRATEGIES = {"Strategy"}


def initial():
    generator = np.random.default_rng(3)
    return ndarrays_to_parameters(
        [
            generator.normal(size=(7, 5)).astype(np.float32),
            generator.normal(size=5).astype(np.float32),
        ]
    )


def fed_avg(**options):
    return shipped.FedAvg(
        initial_parameters=initial(),
        fit_metrics_aggregation_fn=mean_loss,
        **options,
    )


def mean_loss(results):
    return {"loss": float(np.mean([metrics["loss"] for _, metrics in results]))}


def make(name: str):
    cls = getattr(shipped, name)
    if name == "DifferentialPrivacyServerSideFixedClipping":
        return cls(fed_avg(), 0.5, 1.0, 7)
    if name == "DifferentialPrivacyClientSideFixedClipping":
        return cls(fed_avg(), 0.5, 1.0, 7)
    if name == "DifferentialPrivacyServerSideAdaptiveClipping":
        return cls(fed_avg(), 0.5, 7)
    if name == "DPFedAvgFixed":
        return cls(fed_avg(), 7, 1.0, 0.5)
    options = {"initial_parameters": initial()}
    if name == "Krum":
        options["num_malicious_clients"] = 1
    if name == "Bulyan":
        # Flower's default rule, Krum, lacks a value of its own for this.
        options |= {"num_malicious_clients": 1, "to_keep": 0}
    if name == "FedProx":
        options["proximal_mu"] = 0.5
    if name == "QFedAvg":
        # It takes the loss that its own evaluation gives.
        options["evaluate_fn"] = lambda round_number, parameters, config: (1.5, {})
    return cls(**options)


@app.main()
def main(grid: Grid, context: Context) -> None:
    rounds = int(context.run_config["num-server-rounds"])
    local = LocalGrid(list(grid.get_node_ids()), grid.run, client_app.app)
    compared = {}
    for name in sorted(set(shipped.__all__) - NOT_STRATEGIES - OTHER_BYTES - NEED_CLIENT_MODS):
        ours = run(name, grid, context, rounds)
        plain = run(name, local, context, rounds)
        compared[name] = {
            "same-bytes": len(ours[0]) == len(plain[0])
            and all(
                left.dtype == right.dtype and left.tobytes() == right.tobytes()
                for left, right in zip(ours[0], plain[0], strict=True)
            ),
            "same-history": ours[1] == plain[1],
            "moved": not np.array_equal(ours[0][0], parameters_to_ndarrays(initial())[0]),
        }
    print("RESULT", json.dumps(compared))


def run(name: str, grid: Grid, context: Context, rounds: int):
    random.seed(5)
    np.random.seed(5)
    legacy = LegacyContext(
        context=context, config=ServerConfig(num_rounds=rounds), strategy=make(name)
    )
    legacy.state.clear()
    DefaultWorkflow()(grid, legacy)
    parameters = legacy.state.array_records["parameters"]
    history = legacy.history
    return (
        [array.numpy() for array in parameters.values()],
        (history.losses_distributed, history.metrics_distributed_fit),
    )

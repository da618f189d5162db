"""Runs each strategy of the older API on the runtime's grid and on a plain one, and compares."""

import json
import random

import numpy as np
from flwr.app import Context
from flwr.common import Parameters, bytes_to_ndarray, ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server import strategy as shipped
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import Grid, ServerApp

from legacy_strategies_app import client_app
from legacy_strategies_app.local_grid import LocalGrid

app = ServerApp()

# FedXgbNnAvg takes pairs of objects for parameters, which no message of Flower 1.41 can carry.
CANNOT_TRAVEL = {"FedXgbNnAvg"}
KINDS = {"FedXgbBagging": "trees", "FedXgbCyclic": "trees", "FedAvgAndroid": "floats"}
NOT_STRATEGIES = {"Strategy"}


def initial():
    generator = np.random.default_rng(3)
    return ndarrays_to_parameters(
        [
            generator.normal(size=(7, 5)).astype(np.float32),
            generator.normal(size=5).astype(np.float32),
        ]
    )


def first(kind: str) -> Parameters:
    if kind == "trees":
        return Parameters([b""], "")
    return Parameters([np.linspace(-1, 1, 9, dtype=np.float32).tobytes()], "numpy.nda")


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
    if name == "DifferentialPrivacyClientSideAdaptiveClipping":
        return cls(fed_avg(on_fit_config_fn=lambda round_number: {"adaptive": True}), 0.5, 7)
    if name == "DPFedAvgAdaptive":
        return cls(fed_avg(), 7, noise_multiplier=0.5)
    if name in KINDS:
        return cls(
            initial_parameters=first(KINDS[name]),
            on_fit_config_fn=lambda round_number: {"kind": KINDS[name], "round": round_number},
        )
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


def difference(one: list[bytes], other: list[bytes]) -> float:
    """The largest difference of two models' elements, as a part of the largest element."""
    largest = 0.0
    for left, right in zip(map(bytes_to_ndarray, one), map(bytes_to_ndarray, other), strict=True):
        gap = np.abs(left.astype(np.float64) - right).max(initial=0.0)
        largest = max(largest, float(gap / (np.abs(right).max(initial=0.0) or 1.0)))
    return largest


@app.main()
def main(grid: Grid, context: Context) -> None:
    rounds = int(context.run_config["num-server-rounds"])
    local = LocalGrid(list(grid.get_node_ids()), grid.run, client_app.app)
    compared = {}
    for name in sorted(set(shipped.__all__) - NOT_STRATEGIES - CANNOT_TRAVEL):
        ours = run(name, grid, context, rounds)
        plain = run(name, local, context, rounds)
        start = first(KINDS[name]) if name in KINDS else initial()
        compared[name] = {
            "same-bytes": ours[0] == plain[0],
            "same-history": ours[1] == plain[1],
            "moved": ours[0] != start.tensors,
            "difference": 0.0 if ours[0] == plain[0] else difference(ours[0], plain[0]),
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
        [array.data for array in parameters.values()],
        (history.losses_distributed, history.metrics_distributed_fit),
    )

"""Flower apps that show what was counted: a client's update depends on its calls so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, Krum

ROUNDS = 3
Arrays = dict[str, Any]
App = Callable[[Grid, int, int], dict[str, Any]]


def client_app(*, adds_one: bool = False) -> ClientApp:
    """Draws from its generators, and counts its calls in its state.

    ``adds_one``: to every element, and nothing else, and all clients weigh the same.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        state = context.state.config_records.setdefault("calls", ConfigRecord({"count": 0}))
        state["count"] = count = int(state["count"]) + 1
        partition = int(context.node_config["partition-id"])
        arrays = {}
        for name, array in message.content["arrays"].items():
            values = array.numpy()
            if adds_one:
                values = values + np.float32(1)
            elif name != "frozen":
                noise = np.random.standard_normal(values.shape[0]).astype(np.float32)
                values = values * np.float32(0.9) + noise * np.float32(count) + partition
            arrays[name] = values.astype(np.float32)
        metrics = {"num-examples": 1 if adds_one else partition + 1, "count": count}
        content = RecordDict({"arrays": record(arrays), "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        first = next(iter(message.content["arrays"].values())).numpy()
        calls = context.state.config_records.get("calls", ConfigRecord({"count": 0}))
        count = int(calls["count"])
        metrics = {"num-examples": 1, "loss": float(first.sum()) + count}
        return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)

    return app


def record(arrays: Arrays) -> ArrayRecord:
    """Arrays by name, as Flower has them."""
    return ArrayRecord({name: Array(values) for name, values in arrays.items()})


def initial(size: int) -> ArrayRecord:
    """A model of three tensors, one of which nobody changes."""
    return record(
        {
            "weights": np.linspace(-1, 1, size, dtype=np.float32),
            "bias": np.zeros(7, np.float32),
            "frozen": np.full(max(1, size // 2), 3, np.float32),
        }
    )


def strategy(make: Callable[..., Any], **options: Any) -> App:
    """An app of one strategy's rounds."""

    def main(grid: Grid, clients: int, size: int) -> dict[str, Any]:
        least = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": clients}
        result = make(**least, **options).start(
            grid=grid, initial_arrays=initial(size), num_rounds=ROUNDS
        )
        return {
            "arrays": {name: array.numpy() for name, array in result.arrays.items()},
            "train": {k: dict(v) for k, v in result.train_metrics_clientapp.items()},
            "evaluate": {k: dict(v) for k, v in result.evaluate_metrics_clientapp.items()},
        }

    return main


def around(make: Callable[..., Any], *arguments: Any, **options: Any) -> App:
    """The same of a strategy around FedAvg."""
    return strategy(lambda **least: make(FedAvg(**least), *arguments, **options))


def own_loop(grid: Grid, clients: int, size: int) -> dict[str, Any]:
    """An app without a strategy, which adds up what it is sent."""
    arrays = initial(size)
    counts = []
    for number in range(ROUNDS):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"round": number})})
        messages = [Message(content, node, "train") for node in sorted(grid.get_node_ids())]
        replies = [each for each in grid.send_and_receive(messages) if each.has_content()]
        counts.append([each.content["metrics"]["count"] for each in replies])
        sums: Arrays = {}
        for reply in replies:
            for name, array in reply.content["arrays"].items():
                sums[name] = sums.get(name, 0) + array.numpy() / np.float32(len(replies))
        arrays = record({name: each.astype(np.float32) for name, each in sums.items()})
    return {
        "arrays": {name: array.numpy() for name, array in arrays.items()},
        "counts": counts,
    }


APPS: dict[str, App] = {
    "FedAvg": strategy(FedAvg),
    "half": strategy(FedAvg, fraction_train=0.5, fraction_evaluate=0.5),
    "FedAdam": strategy(FedAdam, eta=0.1),
    "FedMedian": strategy(FedMedian),
    "Krum": strategy(Krum, num_malicious_nodes=1),
    "own loop": own_loop,
}

# Of runs with late updates alone, whose model depends on the time.
LATE = {"adds one": strategy(FedAvg, fraction_evaluate=0.0)}

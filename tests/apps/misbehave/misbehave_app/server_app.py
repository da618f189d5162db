"""ServerApp: FedAvg that counts replies and errors in every round."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class CountingFedAvg(FedAvg):
    """FedAvg that remembers what it received, one list entry per round."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        self.replies: list[int] = []
        self.errors: list[int] = []
        self.error_codes: set[int] = set()
        self.error_reasons: set[str] = set()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Count, then aggregate as FedAvg does."""
        replies = list(replies)
        errors = [reply.error for reply in replies if reply.has_error()]
        self.replies.append(len(replies))
        self.errors.append(len(errors))
        self.error_codes |= {error.code for error in errors}
        self.error_reasons |= {error.reason or "" for error in errors}
        return super().aggregate_train(server_round, replies)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train a vector of zeros and report; reports even if the strategy gives up."""
    size = int(context.run_config["size"])
    strategy = CountingFedAvg()
    values: dict[str, Any] = {"completed": False}
    try:
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord([np.zeros(size, dtype=np.float32)]),
            num_rounds=int(context.run_config["num-server-rounds"]),
            timeout=float(context.run_config["round-timeout"]),
        )
        values = {
            "completed": True,
            "rounds-aggregated": len(result.train_metrics_clientapp),
            **describe_model(result.arrays),
        }
    finally:
        values |= {
            "replies": strategy.replies,
            "errors": strategy.errors,
            "error-codes": sorted(strategy.error_codes),
            "error-reasons": sorted(strategy.error_reasons),
        }
        report(context, values)


def describe_model(arrays: ArrayRecord) -> dict[str, Any]:
    """Describe the final model; it has no arrays if no round was aggregated."""
    if not arrays:
        return {"names": [], "final-mean": 0.0, "finite": True, "dtype": ""}
    vector = next(iter(arrays.values())).numpy()
    return {
        "names": list(arrays),
        "final-mean": float(vector.mean()),
        "finite": bool(np.isfinite(vector).all()),
        "dtype": str(vector.dtype),
    }


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

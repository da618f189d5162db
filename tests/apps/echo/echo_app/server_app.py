"""ServerApp: FedAvg over models that never change; reports the time per round."""

import json
import time
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

FLOAT32_BYTES = 4

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send the model around and report times in seconds."""
    initial = make_model(
        megabytes=float(context.run_config["megabytes"]),
        tensors=int(context.run_config["tensors"]),
    )
    round_ends: list[float] = []
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    result = strategy.start(
        grid=grid,
        initial_arrays=initial,
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=lambda server_round, arrays: round_ends.append(time.perf_counter()),
    )
    report(
        context,
        {
            "seconds-per-round": [float(seconds) for seconds in np.diff(round_ends)],
            "seconds": round_ends[-1] - round_ends[0],
            "model-bytes": sum(array.numpy().nbytes for array in initial.values()),
            "tensors": len(result.arrays),
            "max-difference": max_difference(initial, result.arrays),
        },
    )


def make_model(megabytes: float, tensors: int) -> ArrayRecord:
    """Create float32 tensors of equal length that together hold so many 10^6 bytes.

    The values are random, so that compression cannot shrink them.
    """
    length = max(1, round(megabytes * 1e6 / FLOAT32_BYTES / tensors))
    rng = np.random.default_rng(0)
    return ArrayRecord(
        {
            f"layer{number}.weight": Array(rng.standard_normal(length, dtype=np.float32))
            for number in range(tensors)
        }
    )


def max_difference(first: ArrayRecord, second: ArrayRecord) -> float:
    """Return the largest absolute difference between two models with the same names."""
    return max(
        float(np.max(np.abs(array.numpy() - second[name].numpy()))) for name, array in first.items()
    )


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

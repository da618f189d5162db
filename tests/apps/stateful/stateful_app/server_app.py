"""ServerApp that compares the clients' counters with its own."""

import json
import random
from typing import Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid, ServerApp

MODEL_SIZE = 8

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Call a sample of the clients in every round and report their counters."""
    num_rounds = int(context.run_config["num-server-rounds"])
    fraction = float(context.run_config["fraction-train"])
    node_ids = sorted(grid.get_node_ids())
    sample_size = max(1, round(fraction * len(node_ids)))
    calls = dict.fromkeys(node_ids, 0)
    sums = dict.fromkeys(node_ids, 0.0)
    mismatches = 0

    for server_round in range(1, num_rounds + 1):
        sample = random.sample(node_ids, sample_size)
        for reply in grid.send_and_receive(train_messages(sample, server_round)):
            node_id = reply.metadata.src_node_id
            metrics = reply.content["metrics"]
            calls[node_id] += 1
            sums[node_id] = float(reply.content["arrays"].to_numpy_ndarrays()[0].sum())
            mismatches += not consistent(metrics, calls[node_id])

    report(
        context,
        {
            "nodes": len(node_ids),
            "min-calls": min(calls.values()),
            "max-calls": max(calls.values()),
            "mismatches": mismatches,
            "checksum": sum(sums.values()),
        },
    )


def train_messages(node_ids: list[int], server_round: int) -> list[Message]:
    """Create one message per node with a vector full of the round number."""
    content = RecordDict(
        {
            "arrays": ArrayRecord([np.full(MODEL_SIZE, float(server_round))]),
            "config": ConfigRecord({"server-round": server_round}),
        }
    )
    return [
        Message(content, dst_node_id=node_id, message_type=MessageType.TRAIN)
        for node_id in node_ids
    ]


def consistent(metrics: MetricRecord, calls: int) -> bool:
    """Tell whether a client remembers all of its calls."""
    return (
        metrics["calls"] == calls
        and metrics["history-length"] == calls
        and metrics["same-partition"] == 1
    )


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

"""ServerApp: FedAvg over what the nodes have, and what each said that it saw."""

import json
from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Asking(FedAvg):
    """FedAvg that keeps what the nodes said."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.said: dict[str, list[str]] = {}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average as FedAvg does, without the nodes' words."""
        replies = list(replies)
        for reply in replies:
            if reply.has_content():
                node = reply.content.config_records.pop("node")
                self.said[str(node["site"])] = list(node["seen"])
        return super().aggregate_train(server_round, replies)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and report the mean of the model and what was said."""
    strategy = Asking()
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"w": Array(np.zeros(4, np.float32))}),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    mean = float(result.arrays["w"].numpy().mean())
    print("RESULT " + json.dumps({"mean": mean, "said": strategy.said}), flush=True)

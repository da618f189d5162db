"""ServerApp built from a server_fn; takes the initial model from a client."""

import json
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context
from flwr.common import Metrics, NDArrays, Scalar
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp


class Recorder:
    """Collects what the strategy's callbacks see and reports after every round.

    A server_fn has no place for code after the last round, so the last report counts.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.values: dict[str, Any] = {"central-means": []}

    def central_evaluate(
        self, server_round: int, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[float, dict[str, Scalar]]:
        """Record the mean of the global model, round 0 included."""
        mean = float(np.mean(parameters[0]))
        self.values["central-means"].append(mean)
        self.values["shapes-kept"] = [array.shape for array in parameters] == [(2, 3), (3,)]
        return mean, {"mean": mean}

    def aggregate_fit_metrics(self, metrics: list[tuple[int, Metrics]]) -> Metrics:
        """Record how many clients took part and their weighted mean step."""
        total = sum(num_examples for num_examples, _ in metrics)
        weighted = sum(num_examples * float(values["step"]) for num_examples, values in metrics)
        self.values["fit-clients"] = len(metrics)
        self.values["mean-step"] = weighted / total
        self.values["fit-round"] = int(metrics[0][1]["round"])
        return {"mean-step": weighted / total}

    def aggregate_evaluate_metrics(self, metrics: list[tuple[int, Metrics]]) -> Metrics:
        """Record the clients' evaluation, the last step of a round, and report."""
        self.values["evaluate-clients"] = len(metrics)
        self.values["double"] = float(np.mean([float(values["double"]) for _, values in metrics]))
        report(self.context, self.values)
        return {"double": self.values["double"]}


def server_fn(context: Context) -> ServerAppComponents:
    """Create the strategy, without initial parameters, and the server's config."""
    recorder = Recorder(context)
    strategy = FedAvg(
        min_fit_clients=1,
        min_evaluate_clients=1,
        min_available_clients=1,
        evaluate_fn=recorder.central_evaluate,
        on_fit_config_fn=lambda server_round: {"round": server_round},
        fit_metrics_aggregation_fn=recorder.aggregate_fit_metrics,
        evaluate_metrics_aggregation_fn=recorder.aggregate_evaluate_metrics,
    )
    config = ServerConfig(num_rounds=int(context.run_config["num-server-rounds"]))
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

"""ClientApp behind Flower's SecAgg+ mod.

The clients with the partitions below `dropouts` drop out when they are asked for `stage`.
"""

import os

import numpy as np
from flwr.app import Context, Message
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import NDArrays, Scalar
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key


class AddingClient(NumPyClient):
    """Adds its step to every weight; the number of examples is the partition number plus one."""

    def __init__(self, num_examples: int, step: float) -> None:
        self.num_examples = num_examples
        self.step = step

    def fit(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Add the step."""
        return [array + self.step for array in parameters], self.num_examples, {}

    def evaluate(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Return the mean of the model as loss."""
        return float(np.mean(parameters[0])), self.num_examples, {}


def client_fn(context: Context) -> Client:
    """Create the client of one partition."""
    number = int(context.node_config["partition-id"]) + 1
    step = float(number) if context.run_config["own-steps"] else 1.0
    return AddingClient(number, step).to_client()


def drop_out(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Die, if this is a client that drops out, and this is the stage."""
    configs = message.content.config_records.get(RECORD_KEY_CONFIGS, {})
    goes = int(context.node_config["partition-id"]) < int(context.run_config["dropouts"])
    if goes and configs.get(Key.STAGE) == context.run_config["stage"]:
        print("drops out", flush=True)
        os._exit(3)
    return call_next(message, context)


app = ClientApp(client_fn, mods=[drop_out, secaggplus_mod])

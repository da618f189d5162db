"""ClientApp behind Flower's SecAgg+ mod."""

import numpy as np
from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import NDArrays, Scalar


class AddingClient(NumPyClient):
    """Adds one to every weight; the number of examples is the partition number plus one."""

    def __init__(self, num_examples: int) -> None:
        self.num_examples = num_examples

    def fit(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Add one."""
        return [array + 1.0 for array in parameters], self.num_examples, {}

    def evaluate(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Return the mean of the model as loss."""
        return float(np.mean(parameters[0])), self.num_examples, {}


def client_fn(context: Context) -> Client:
    """Create the client of one partition."""
    return AddingClient(int(context.node_config["partition-id"]) + 1).to_client()


app = ClientApp(client_fn, mods=[secaggplus_mod])

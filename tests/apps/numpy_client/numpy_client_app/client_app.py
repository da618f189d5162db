"""ClientApp built from a client_fn that returns a NumPyClient."""

import numpy as np
from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import NDArrays, Scalar

INITIAL_VALUE = 7.0


class AddingClient(NumPyClient):
    """Adds its partition number plus one to every weight; has that many examples."""

    def __init__(self, partition: int) -> None:
        self.step = partition + 1

    def get_parameters(self, config: dict[str, Scalar]) -> NDArrays:
        """Return the initial model, arrays of shape (2, 3) and (3,), the same at every client."""
        return [np.full((2, 3), INITIAL_VALUE), np.full(3, INITIAL_VALUE)]

    def fit(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Add this client's step."""
        metrics: dict[str, Scalar] = {"step": self.step, "round": config["round"]}
        return [array + self.step for array in parameters], self.step, metrics

    def evaluate(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Return the mean of the model as loss and twice the mean as a metric."""
        mean = float(np.mean(parameters[0]))
        return mean, self.step, {"double": 2.0 * mean}


def client_fn(context: Context) -> Client:
    """Create the client of one partition."""
    return AddingClient(int(context.node_config["partition-id"])).to_client()


app = ClientApp(client_fn=client_fn)

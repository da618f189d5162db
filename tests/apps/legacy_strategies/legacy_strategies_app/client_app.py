"""A client of Flower's older API whose results are a fixed function of what it was sent."""

import numpy as np
from flwr.app import Context
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp


class FixedClient(NumPyClient):
    def __init__(self, place: int) -> None:
        self.place = place

    def fit(self, parameters, config):
        moved = []
        for old in parameters:
            wave = np.sin(np.arange(old.size, dtype=np.float64) * (self.place + 1))
            new = old * 0.9 + 0.1 * wave.reshape(old.shape) * (self.place + 1)
            moved.append(new.astype(old.dtype))
        return moved, 10 + 3 * self.place, {"loss": 1.0 + 0.1 * self.place}

    def evaluate(self, parameters, config):
        total = sum(float(np.asarray(old, np.float64).sum()) for old in parameters)
        return abs(total) + self.place, 7 + self.place, {"place": self.place}


def client_fn(context: Context):
    return FixedClient(int(context.node_config["partition-id"])).to_client()


app = ClientApp(client_fn)

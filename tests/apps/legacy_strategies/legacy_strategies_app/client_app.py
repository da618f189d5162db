"""A client of Flower's older API whose results are a fixed function of what it was sent."""

import json

import numpy as np
from flwr.app import Context, Message
from flwr.client import Client
from flwr.client.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp import ClientApp
from flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM

OK = Status(Code.OK, "")


class FixedClient(Client):
    """The fit config's ``kind`` says what parameters are: NumPy's, a tree, or bare floats."""

    def __init__(self, place: int) -> None:
        self.place = place

    def fit(self, ins: FitIns) -> FitRes:
        kind = ins.config.get("kind", "numpy")
        if kind == "trees":
            parameters = Parameters([self.tree(int(ins.config["round"]))], "")
        elif kind == "floats":
            old = [np.frombuffer(tensor, np.float32) for tensor in ins.parameters.tensors]
            parameters = Parameters([self.moved(each).tobytes() for each in old], "numpy.nda")
        else:
            old = parameters_to_ndarrays(ins.parameters)
            parameters = ndarrays_to_parameters([self.moved(each) for each in old])
        metrics = {"loss": 1.0 + 0.1 * self.place, "dpfedavg_norm_bit": self.place % 2}
        return FitRes(OK, parameters, 10 + 3 * self.place, metrics)

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        if ins.parameters.tensor_type == "numpy.ndarray":
            arrays = parameters_to_ndarrays(ins.parameters)
            loss = abs(sum(float(np.asarray(each, np.float64).sum()) for each in arrays))
        else:
            loss = float(sum(len(tensor) for tensor in ins.parameters.tensors))
        return EvaluateRes(OK, loss + self.place, 7 + self.place, {"place": self.place})

    def moved(self, old: np.ndarray) -> np.ndarray:
        wave = np.sin(np.arange(old.size, dtype=np.float64) * (self.place + 1))
        return (old * 0.9 + 0.1 * wave.reshape(old.shape) * (self.place + 1)).astype(old.dtype)

    def tree(self, round_number: int) -> bytes:
        model = {
            "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
            "iteration_indptr": [0, 1],
            "tree_info": [0],
            "trees": [{"id": 0, "leaf": 100 * round_number + self.place}],
        }
        return json.dumps({"learner": {"gradient_booster": {"model": model}}}).encode()


def clip_if_asked(message: Message, context: Context, call_next) -> Message:
    """What a client does under Flower's client-side differential privacy, and only there."""
    config = message.content.config_records.get("fitins.config", {})
    if KEY_CLIPPING_NORM not in config:
        return call_next(message, context)
    mod = adaptiveclipping_mod if config.get("adaptive") else fixedclipping_mod
    return mod(message, context, call_next)


def client_fn(context: Context) -> Client:
    return FixedClient(int(context.node_config["partition-id"]))


app = ClientApp(client_fn, mods=[clip_if_asked])

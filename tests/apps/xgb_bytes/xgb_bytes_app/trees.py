"""The part of XGBoost's JSON model format that bagging reads, with one-leaf trees."""

import json
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

Model = dict[str, Any]


def one_tree_model(leaf: float) -> Model:
    """Return a model with a single tree that predicts `leaf`."""
    return {
        "learner": {
            "gradient_booster": {
                "model": {
                    "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
                    "iteration_indptr": [0, 1],
                    "tree_info": [0],
                    "trees": [{"id": 0, "base_weights": [leaf]}],
                }
            }
        }
    }


def booster(model: Model) -> dict[str, Any]:
    """Return the part of the model that holds the trees."""
    return model["learner"]["gradient_booster"]["model"]


def to_arrays(model: Model | None) -> ArrayRecord:
    """Encode a model as one uint8 array, of length 0 for no model."""
    encoded = json.dumps(model).encode() if model is not None else b""
    return ArrayRecord([np.frombuffer(encoded, dtype=np.uint8)])


def from_arrays(arrays: ArrayRecord) -> Model | None:
    """Decode a model, or None from an empty array."""
    encoded: NDArray[np.uint8] = arrays["0"].numpy()
    return json.loads(encoded.tobytes()) if encoded.size else None

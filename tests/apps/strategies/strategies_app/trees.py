"""One boosted tree in the JSON shape that Flower's bagging reads and writes."""

import json

import numpy as np


def grown(place: int, round_number: int) -> np.ndarray:
    """A model (bytes as uint8) with one tree whose leaf tells who made it and when."""
    model = {
        "learner": {
            "gradient_booster": {
                "model": {
                    "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
                    "iteration_indptr": [0, 1],
                    "tree_info": [0],
                    "trees": [{"id": 0, "leaf": 100 * round_number + place}],
                }
            }
        }
    }
    return np.frombuffer(json.dumps(model).encode(), np.uint8)

"""ClientApp that returns the arrays it gets, or with `change` some of them plus one.

`changed-tensors`: how many, from the first on; 0 for all. With `sgd`, all of them after one step of
SGD, by PyTorch.
"""

import functools
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

CLASSES = 10
EXAMPLES = 10

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Return the arrays."""
    arrays = msg.content["arrays"]
    if context.run_config.get("sgd", False):
        arrays = ArrayRecord({name: step(array) for name, array in arrays.items()})
    elif context.run_config["change"]:
        changed = list(arrays)[: context.run_config["changed-tensors"] or None]
        arrays = ArrayRecord(
            {
                name: Array(array.numpy() + 1) if name in changed else array
                for name, array in arrays.items()
            }
        )
    metrics = MetricRecord({"num-examples": 1})
    reply = RecordDict({"arrays": arrays, "metrics": metrics})
    return Message(reply, reply_to=msg)


def step(array: Array) -> Array:
    """Take the array for the weights of a linear model, and make one step with a batch."""
    import torch

    weights = torch.from_numpy(array.numpy().copy()).requires_grad_()
    features, labels = batch(weights.numel() // CLASSES)
    optimizer = torch.optim.SGD([weights], lr=0.1)
    loss = torch.nn.functional.cross_entropy(features @ weights.view(-1, CLASSES), labels)
    loss.backward()
    optimizer.step()
    return Array(weights.detach().numpy())


@functools.cache
def batch(width: int) -> tuple[Any, Any]:
    """Make up examples once."""
    import torch

    rng = np.random.default_rng(0)
    features = rng.standard_normal((EXAMPLES, width), dtype=np.float32)
    return torch.from_numpy(features), torch.from_numpy(rng.integers(0, CLASSES, EXAMPLES))

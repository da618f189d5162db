"""A client whose reply is a fixed function of what it was sent and of its partition."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM

from strategies_app.trees import grown


def clip_if_asked(message: Message, context: Context, call_next) -> Message:
    """What a client does under Flower's client-side differential privacy, and only there."""
    config = message.content.config_records.get("config", {})
    if KEY_CLIPPING_NORM not in config:
        return call_next(message, context)
    mod = adaptiveclipping_mod if config.get("adaptive") else fixedclipping_mod
    return mod(message, context, call_next)


app = ClientApp(mods=[clip_if_asked])


@app.train()
def train(message: Message, context: Context) -> Message:
    place = int(context.node_config["partition-id"])
    arrays = message.content["arrays"]
    round_number = int(message.content["config"]["server-round"])
    if message.content["config"].get("trees"):
        new = ArrayRecord([grown(place, round_number)])
    else:
        new = ArrayRecord({name: Array(_moved(array, place)) for name, array in arrays.items()})
    metrics = MetricRecord(
        {"num-examples": 10 + 3 * place, "train_loss": 1.0 + 0.1 * place, "place": place}
    )
    return Message(RecordDict({"arrays": new, "metrics": metrics}), reply_to=message)


def _moved(array: Array, place: int) -> np.ndarray:
    old = array.numpy()
    wave = np.sin(np.arange(old.size, dtype=np.float64) * (place + 1)).reshape(old.shape)
    return (old * 0.9 + 0.1 * wave * (place + 1)).astype(old.dtype)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    place = int(context.node_config["partition-id"])
    total = sum(
        float(np.asarray(array.numpy(), np.float64).sum())
        for array in message.content["arrays"].values()
    )
    metrics = MetricRecord({"num-examples": 7 + place, "eval_loss": abs(total) + place})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)

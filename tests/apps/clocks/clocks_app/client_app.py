"""ClientApp: adds one to every weight."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clocks_app import jumping

app = ClientApp()
jumping.begin(2)


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Add one."""
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    content = RecordDict(
        {
            "arrays": ArrayRecord([weights + np.float32(1.0)]),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    return Message(content, reply_to=msg)

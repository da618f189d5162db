"""ClientApp: answers queries with statistics of the local rows, never with rows."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from analytics_app.task import client_rows, histograms, summarize

app = ClientApp()


@app.query()
def summary(msg: Message, context: Context) -> Message:
    """Return the row count and per-feature sums and extremes."""
    local = summarize(_local_rows(context))
    metrics = MetricRecord(
        {
            "count": local.count,
            "total": local.total.tolist(),
            "total-of-squares": local.total_of_squares.tolist(),
            "minimum": local.minimum.tolist(),
            "maximum": local.maximum.tolist(),
        }
    )
    return Message(RecordDict({"summary": metrics}), reply_to=msg)


@app.query("histogram")
def histogram(msg: Message, context: Context) -> Message:
    """Return bin counts of shape (features, bins) for the bins in the message's config."""
    bins = msg.content["bins"]
    counts = histograms(
        _local_rows(context), bins["minimum"], bins["maximum"], int(bins["num-bins"])
    )
    return Message(RecordDict({"counts": ArrayRecord([counts])}), reply_to=msg)


def _local_rows(context: Context) -> NDArray[np.float64]:
    """Return this client's rows, shape (n, 13)."""
    return client_rows(
        partition_id=int(context.node_config["partition-id"]),
        num_partitions=int(context.node_config["num-partitions"]),
    )

"""ServerApp: two rounds of queries, one for summaries and one for histograms."""

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from analytics_app.task import FEATURE_NAMES, Summary, merge

BARS = " ▁▂▃▄▅▆▇█"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask all clients for statistics and print the global table."""
    timeout = float(context.run_config["timeout"])
    num_bins = int(context.run_config["num-bins"])

    replies = ask_all(grid, MessageType.QUERY, RecordDict(), timeout)
    summary = merge([summary_from_record(reply["summary"]) for reply in replies])

    bins = ConfigRecord(
        {
            "minimum": summary.minimum.tolist(),
            "maximum": summary.maximum.tolist(),
            "num-bins": num_bins,
        }
    )
    replies = ask_all(grid, "query.histogram", RecordDict({"bins": bins}), timeout)
    counts = np.sum([reply["counts"].to_numpy_ndarrays()[0] for reply in replies], axis=0)

    print(f"{summary.count} rows from {len(replies)} clients")
    print(format_table(summary, counts))


def ask_all(grid: Grid, message_type: str, content: RecordDict, timeout: float) -> list[RecordDict]:
    """Send one query to every client and return the contents of the replies.

    timeout: seconds to wait for all replies.
    """
    messages = [
        Message(content, dst_node_id=node_id, message_type=message_type)
        for node_id in grid.get_node_ids()
    ]
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    contents = [reply.content for reply in replies if reply.has_content()]
    # Totals over a subset would look like global results, so all clients must answer.
    if len(contents) < len(messages):
        raise RuntimeError(f"only {len(contents)} of {len(messages)} clients answered")
    return contents


def summary_from_record(record: MetricRecord) -> Summary:
    """Build the Summary that a client sent."""
    return Summary(
        count=record["count"],
        total=np.array(record["total"]),
        total_of_squares=np.array(record["total-of-squares"]),
        minimum=np.array(record["minimum"]),
        maximum=np.array(record["maximum"]),
    )


def format_table(summary: Summary, counts: NDArray[np.int64]) -> str:
    """Format one line per feature; counts has the shape (features, bins)."""
    lines = [f"{'feature':<30}{'mean':>10}{'std':>10}{'min':>10}{'max':>10}  histogram"]
    columns = zip(
        FEATURE_NAMES,
        summary.mean,
        summary.std,
        summary.minimum,
        summary.maximum,
        counts,
        strict=True,
    )
    for name, mean, std, low, high, bins in columns:
        lines.append(
            f"{name:<30}{mean:>10.3f}{std:>10.3f}{low:>10.2f}{high:>10.2f}  {sparkline(bins)}"
        )
    return "\n".join(lines)


def sparkline(counts: NDArray[np.int64]) -> str:
    """Draw bin counts of shape (bins,) as one character per bin."""
    levels = np.ceil(counts / max(counts.max(), 1) * (len(BARS) - 1)).astype(int)
    return "".join(BARS[level] for level in levels)

"""ServerApp that sends and collects messages by itself."""

import json
import time
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

MODEL_SIZE = 6
POLL_SECONDS = 0.05

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run rounds of train.adapt, then evaluate.probe and query.stats, and report."""
    timeout = float(context.run_config["timeout"])
    ttl = float(context.run_config["ttl"])
    node_ids = sorted(grid.get_node_ids())
    values: dict[str, Any] = {
        "nodes": len(node_ids),
        "nodes-agree": sorted(node.node_id for node in grid.get_nodes()) == node_ids,
        "groups-agree": True,
        "senders-agree": True,
        "client-ttl": 0.0,
    }

    vector = np.zeros(MODEL_SIZE)
    for server_round in range(1, int(context.run_config["num-server-rounds"]) + 1):
        content = RecordDict({"arrays": ArrayRecord([vector])})
        messages = [
            Message(content, node_id, "train.adapt", group_id=str(server_round), ttl=ttl)
            for node_id in node_ids
        ]
        replies = list(grid.send_and_receive(messages, timeout=timeout))
        vector = np.mean([reply.content["arrays"].to_numpy_ndarrays()[0] for reply in replies], 0)
        values["groups-agree"] &= all(
            reply.metadata.group_id == str(server_round)
            and reply.content["metrics"]["group"] == server_round
            for reply in replies
        )
        values["senders-agree"] &= (
            sorted(reply.metadata.src_node_id for reply in replies) == node_ids
        )
        values["client-ttl"] = max(reply.content["metrics"]["ttl"] for reply in replies)
    values["model-mean"] = float(np.mean(vector))

    content = RecordDict({"arrays": ArrayRecord([vector])})
    probes = [Message(content, node_id, "evaluate.probe") for node_id in node_ids]
    replies = list(grid.send_and_receive(probes, timeout=timeout))
    values["probe-mean"] = float(np.mean([reply.content["metrics"]["mean"] for reply in replies]))

    replies, values["ids-agree"] = push_and_pull(grid, node_ids, timeout)
    stats = [reply.content["metrics"] for reply in replies]
    values["stats-replies"] = len(stats)
    values["integer-sum"] = sum(sum(record["integers"]) for record in stats)
    values["float-sum"] = sum(sum(record["floats"]) for record in stats)
    values["list-types-kept"] = all(
        isinstance(record["integers"][0], int) and isinstance(record["floats"][0], float)
        for record in stats
    )
    report(context, values)


def push_and_pull(grid: Grid, node_ids: list[int], timeout: float) -> tuple[list[Message], bool]:
    """Send query.stats without waiting, then poll until all replies are here.

    Returns the replies and whether they refer to exactly the pushed messages.
    """
    queries = [Message(RecordDict(), node_id, "query.stats") for node_id in node_ids]
    pushed = set(grid.push_messages(queries))
    pending = set(pushed)
    replies: list[Message] = []
    deadline = time.monotonic() + timeout
    while pending and time.monotonic() < deadline:
        pulled = list(grid.pull_messages(pending))
        replies.extend(pulled)
        pending -= {reply.metadata.reply_to_message_id for reply in pulled}
        time.sleep(POLL_SECONDS)
    answered = {reply.metadata.reply_to_message_id for reply in replies}
    return replies, answered == pushed and len(replies) == len(pushed)


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

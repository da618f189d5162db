"""ServerApp that works, and reports how many clients failed and why."""

import json
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send empty train messages and report the errors in the replies."""
    messages = replies = 0
    codes: set[int] = set()
    reasons: set[str] = set()
    for _ in range(int(context.run_config["num-server-rounds"])):
        batch = [
            Message(RecordDict(), dst_node_id=node_id, message_type=MessageType.TRAIN)
            for node_id in grid.get_node_ids()
        ]
        messages += len(batch)
        for reply in grid.send_and_receive(batch):
            replies += 1
            if reply.has_error():
                codes.add(reply.error.code)
                reasons.add(reply.error.reason or "")
    report(
        context,
        {
            "messages": messages,
            "replies": replies,
            "error-codes": sorted(codes),
            "error-reasons": sorted(reasons),
        },
    )


def report(context: Context, values: dict[str, Any]) -> None:
    """Publish results for the test: as a line on stdout and in the server's state."""
    context.state["result"] = ConfigRecord(dict(values))
    print("RESULT " + json.dumps(values), flush=True)

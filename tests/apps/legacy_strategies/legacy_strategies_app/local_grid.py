"""A grid that calls the ClientApp in this process: no bytes, no exchange, Flower's own objects."""

import copy
from collections.abc import Callable, Iterable
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

ClientCall = Callable[[Message, Context], Message]


class LocalGrid(Grid):
    """Has the same nodes as the runtime's grid, in the same order."""

    def __init__(self, nodes: list[int], run: Run, call: ClientCall) -> None:
        self._nodes = nodes
        self._run = run
        self._call = call
        self._contexts = {
            node: Context(
                run.run_id,
                node,
                {"partition-id": index, "num-partitions": len(nodes)},
                RecordDict(),
                {},
            )
            for index, node in enumerate(nodes)
        }

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise AssertionError("no strategy pushes")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise AssertionError("no strategy pulls")

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid4().hex
            given = copy.deepcopy(message)
            replies.append(self._call(given, self._contexts[message.metadata.dst_node_id]))
        return replies

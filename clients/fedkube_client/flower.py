"""Everything of the client that knows Flower: loads the ClientApp and calls it."""

from __future__ import annotations

from flwr.app import Context, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.logger import update_console_handler

from fedkube.app import loading, tracebacks
from fedkube.app.records import Encoder, decode, from_values
from fedkube.core.errors import AppInvalid, Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import executor_pb2 as xpb

# The reply, and the bytes of its arrays.
Handled = tuple[xpb.Executed, list[memoryview]]


def load(request: xpb.Load) -> tuple[Handler | None, str]:
    """Load the ClientApp; if it cannot be, None and a text for the app's author."""
    update_console_handler(colored=False)
    try:
        app = loading.load(request.component, request.app_dir, ClientApp)
    except AppInvalid as error:
        return None, error.details or error.message
    config = from_values(request.run_config)
    return Handler(app, request.app_dir, request.flower_run, config), ""


class Handler:
    """Calls one ClientApp for any of the logical clients."""

    def __init__(
        self,
        app: ClientApp,
        folder: str,
        flower_run: int,
        run_config: dict[str, bool | float | int | str],
    ) -> None:
        self._app = app
        self._folder = folder
        self._run = flower_run
        self._run_config = run_config

    def handle(self, task: pb.Task, blobs: list[memoryview]) -> Handled:
        """Call the app with the task's message and its client's context.

        Returns the reply and the bytes of its arrays. An error of the app becomes a failure in the
        reply, and the client's state stays as it was.
        """
        loading.identify(self._run, task.node, task.id)
        try:
            message, context = self._message(task, blobs), self._context(task, blobs)
        except Rejected as error:
            reason = f"the message cannot be read: {error.message}"
            return _failed(pb.Failure.REFUSED, reason), []
        loading.seed_everything(task.seed)
        try:
            reply = self._app(message, context)
        except BaseException as error:  # noqa: BLE001 - whatever the app raises
            return _failed(pb.Failure.APP_RAISED, tracebacks.of_app(error, self._folder)), []
        try:
            return _encoded(task, reply, context.state)
        except Rejected as error:
            return _failed(pb.Failure.REFUSED, f"the reply cannot be sent: {error.message}"), []
        except Exception as error:  # noqa: BLE001 - the records hold whatever the app put in them
            reason = f"the reply cannot be sent: {type(error).__name__}: {error}"
            return _failed(pb.Failure.REFUSED, reason), []

    def _context(self, task: pb.Task, blobs: list[memoryview]) -> Context:
        return Context(
            run_id=self._run,
            node_id=task.node,
            node_config=from_values(task.node_config),
            state=decode(task.state, blobs),
            run_config=dict(self._run_config),
        )

    def _message(self, task: pb.Task, blobs: list[memoryview]) -> Message:
        metadata = Metadata(
            run_id=self._run,
            message_id=task.message_id,
            src_node_id=1,
            dst_node_id=task.node,
            reply_to_message_id="",
            group_id=task.group,
            created_at=task.created_at,
            ttl=task.ttl,
            message_type=task.message_type,
        )
        metadata.delivered_at = ""
        return make_message(metadata, content=decode(task.content, blobs))


def _encoded(task: pb.Task, reply: object, state: RecordDict) -> Handled:
    if not isinstance(reply, Message):
        raise Rejected(f"the ClientApp must return a Message, and returned {type(reply).__name__}")
    if reply.metadata.reply_to_message_id != task.message_id:
        raise Rejected("it answers another message; make it with Message(..., reply_to=message)")
    if reply.has_error():
        return _failed(pb.Failure.APP_RAISED, reply.error.reason or "the app gave no reason"), []
    encoder = Encoder()
    executed = xpb.Executed(
        content=encoder.encode(reply.content),
        state=encoder.encode(state),
        created_at=reply.metadata.created_at,
        ttl=reply.metadata.ttl,
    )
    return executed, encoder.blobs


def _failed(code: pb.Failure.Code, reason: str) -> xpb.Executed:
    return xpb.Executed(failure=pb.Failure(code=code, reason=reason))

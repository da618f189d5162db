"""Everything of the client that knows Flower: loads the ClientApp and calls it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY
from flwr.common.logger import update_console_handler

from fedkube.app import arrays, loading, messages, tracebacks, typed_dicts
from fedkube.app.records import Encoder, Pack, decode, from_values
from fedkube.core.errors import AppInvalid, Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import executor_pb2 as xpb
from fedkube_client.compressor import Compressor

# The outcomes, and the bytes of their arrays.
Handled = tuple[xpb.Executed, list[memoryview]]


def load(request: xpb.Load) -> tuple[Handler | None, str]:
    """Load the ClientApp; if it cannot be, None and a text for the app's author."""
    update_console_handler(colored=False)
    arrays.keep_elements()
    typed_dicts.quicken()
    try:
        app = loading.load(request.component, request.app_dir, ClientApp)
    except AppInvalid as error:
        return None, error.details or error.message
    config = from_values(request.run_config)
    node = {**json.loads(request.node_config or "{}"), NUM_PARTITIONS_KEY: request.partitions}
    return Handler(app, request.app_dir, request.flower_run, config, node), ""


class Handler:
    """Calls one ClientApp for any of the logical clients."""

    def __init__(
        self,
        app: ClientApp,
        folder: str,
        flower_run: int,
        run_config: dict[str, bool | float | int | str],
        node_config: dict[str, bool | float | int | str],
    ) -> None:
        self._app = app
        self._folder = folder
        self._run = flower_run
        self._run_config = run_config
        self._node_config = node_config
        self._compressor = Compressor()

    def uncounted(self, calls: Iterable[int]) -> None:
        """The updates of these earlier calls did not count."""
        self._compressor.uncounted(calls)

    def handle(
        self, task: pb.Task, blobs: list[memoryview], began: Callable[[int], None]
    ) -> Handled:
        """Make the task's calls, one after the other; ``began`` is told the place of each.

        Returns the outcomes and the bytes of their arrays; what is one of ``blobs`` still is that
        very object. An error of the app becomes a failure of
        its call, and the client's state stays as it was.
        """
        executed = xpb.Executed()
        encoder = Encoder(received=blobs)
        for place, call in enumerate(task.calls):
            began(place)
            self._call(task, call, blobs, executed.outcomes.add(call=call.id), encoder)
        return executed, encoder.blobs

    def _call(
        self,
        task: pb.Task,
        call: pb.Call,
        blobs: list[memoryview],
        outcome: pb.Outcome,
        encoder: Encoder,
    ) -> None:
        loading.identify(self._run, call.node, call.id)
        try:
            message, context = self._message(task, call, blobs), self._context(call, blobs)
        except Rejected as error:
            _fail(outcome, pb.Failure.REFUSED, f"the message cannot be read: {error.message}")
            return
        loading.seed_everything(call.seed)
        try:
            reply = self._app(message, context)
        except BaseException as error:  # noqa: BLE001 - whatever the app raises
            _fail(outcome, pb.Failure.APP_RAISED, tracebacks.of_app(error, self._folder))
            return
        packing = self._compressor.packing(task, call, blobs)
        try:
            _encode(call, reply, context.state, outcome, encoder, packing)
            if packing is not None and outcome.HasField("content"):
                self._compressor.done(packing)
        except Rejected as error:
            _fail(outcome, pb.Failure.REFUSED, f"the reply cannot be sent: {error.message}")
        except Exception as error:  # noqa: BLE001 - the records hold whatever the app put in them
            reason = f"the reply cannot be sent: {type(error).__name__}: {error}"
            _fail(outcome, pb.Failure.REFUSED, reason)

    def _context(self, call: pb.Call, blobs: list[memoryview]) -> Context:
        return Context(
            run_id=self._run,
            node_id=call.node,
            node_config={**self._node_config, PARTITION_ID_KEY: call.partition},
            state=decode(call.state, blobs),
            run_config=dict(self._run_config),
        )

    def _message(self, task: pb.Task, call: pb.Call, blobs: list[memoryview]) -> Message:
        return messages.make(
            run_id=self._run,
            message_id=call.message_id,
            src_node_id=1,
            dst_node_id=call.node,
            reply_to_message_id="",
            group_id=task.group,
            created_at=call.created_at,
            ttl=call.ttl,
            message_type=task.message_type,
            content=decode(task.content, blobs),
        )


def _encode(
    call: pb.Call,
    reply: object,
    state: RecordDict,
    outcome: pb.Outcome,
    encoder: Encoder,
    pack: Pack | None,
) -> None:
    if not isinstance(reply, Message):
        raise Rejected(f"the ClientApp must return a Message, and returned {type(reply).__name__}")
    if reply.metadata.reply_to_message_id != call.message_id:
        raise Rejected("it answers another message; make it with Message(..., reply_to=message)")
    if reply.has_error():
        _fail(outcome, pb.Failure.APP_RAISED, reply.error.reason or "the app gave no reason")
        return
    encoder.encode(reply.content, pack, outcome.content)
    encoder.encode(state, into=outcome.state)
    outcome.created_at = reply.metadata.created_at
    outcome.ttl = reply.metadata.ttl


def _fail(outcome: pb.Outcome, code: pb.Failure.Code, reason: str) -> None:
    outcome.ClearField("state")
    outcome.failure.CopyFrom(pb.Failure(code=code, reason=reason))

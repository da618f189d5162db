"""Flower's messages as what travels, and what came of them as the replies that Flower expects."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Sequence

from flwr.app import Error, Message, Metadata
from flwr.common.constant import ErrorCode

from fedkube.app.messages import make
from fedkube.app.records import Encoder
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, frames
from fedkube_server.blobs import BlobStore, StoredBlob
from fedkube_server.calls import Answer, Ending

_ERROR_CODES = {
    pb.Failure.APP_RAISED: ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    pb.Failure.CRASHED: ErrorCode.CLIENT_APP_CRASHED,
    pb.Failure.KILLED: ErrorCode.CLIENT_APP_CRASHED,
    pb.Failure.TIMED_OUT: ErrorCode.CLIENT_APP_CRASHED,
    pb.Failure.EXPIRED: ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    pb.Failure.LOST: ErrorCode.NODE_UNAVAILABLE,
    pb.Failure.UNKNOWN_CLIENT: ErrorCode.NODE_UNAVAILABLE,
    pb.Failure.BANNED: ErrorCode.NODE_UNAVAILABLE,
}


class Ids:
    """Ids of messages: another each time, and none of another life of the server.

    To ask the kernel for each one's bytes would cost as much as the rest of a reply.
    """

    def __init__(self) -> None:
        self._stem = uuid.uuid4().hex[:16]
        self._numbers = itertools.count()

    def new(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._stem}{next(self._numbers):016x}"


def pack(
    messages: Sequence[Message], store: BlobStore
) -> dict[int, tuple[pb.Content, list[StoredBlob]]]:
    """Each content by the id of its records: messages of a round share most or all of theirs."""
    encoder = Encoder()
    encoded = {
        id(message.content): encoder.encode(message.content)
        for message in {id(message.content): message for message in messages}.values()
    }
    stored = [store.put(data) for data in encoder.blobs]
    packed = {}
    for key, content in encoded.items():
        frames.check_size(content)
        used = sorted({entry.blob for entry in contents.references(content)})
        contents.renumber(content, {old: new for new, old in enumerate(used)}.__getitem__)
        packed[key] = (content, [stored[old] for old in used])
    return packed


def withdrawn(outcome: Ending) -> bool:
    """Whether nobody waited for the outcome any more."""
    given_up = (pb.Failure.WITHDRAWN, pb.Failure.NOT_NEEDED)
    return not isinstance(outcome, Answer) and outcome.code in given_up


def reply(asked: Metadata, outcome: Ending, message_id: str) -> Message:
    """The outcome of a message as the Message that Flower's strategies expect."""
    return make(
        run_id=asked.run_id,
        message_id=message_id,
        src_node_id=asked.dst_node_id,
        dst_node_id=asked.src_node_id,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=outcome.outcome.created_at if isinstance(outcome, Answer) else time.time(),
        ttl=outcome.outcome.ttl if isinstance(outcome, Answer) else 0.0,
        message_type=asked.message_type,
        src_task_id=asked.dst_task_id,
        dst_task_id=asked.src_task_id,
        content=outcome.records if isinstance(outcome, Answer) else None,
        error=None if isinstance(outcome, Answer) else _error(outcome),
    )


def _error(failure: pb.Failure) -> Error:
    return Error(_ERROR_CODES.get(failure.code, ErrorCode.UNKNOWN), failure.reason)

"""What logical clients keep between calls, held by the server for whichever worker is next."""

from __future__ import annotations

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents
from fedkube_server.blobs import BlobStore, StoredBlob
from fedkube_server.calls import Answer, ClientState


def keep(answer: Answer, store: BlobStore) -> ClientState:
    """The state after a call, with only the blobs that it refers to."""
    if not answer.outcome.state.records:
        return ClientState()
    content = pb.Content()
    content.CopyFrom(answer.outcome.state)
    blobs: list[StoredBlob] = []
    numbers: dict[int, int] = {}

    def number(old: int) -> int:
        if old not in numbers:
            if old >= len(answer.blobs):
                raise Rejected(f"the client's state refers to blob {old}, which did not come")
            numbers[old] = len(blobs)
            # Copied: what the reply has landed in will be used again.
            blobs.append(store.put(memoryview(bytes(answer.blobs[old]))))
        return numbers[old]

    contents.renumber(content, number)
    return ClientState(content, blobs)

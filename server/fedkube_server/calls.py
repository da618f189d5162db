"""What is asked of a client and how that ends, as the app's side and the driver tell each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedkube.core.tasks import Kind
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube_server.blobs import StoredBlob
from fedkube_server.folds import Fold, Sent


@dataclass(slots=True)
class Answer:
    """How a call ended well. ``blobs``: the bytes of its arrays, as views.

    ``records``: what admission decoded it to; Flower's type. ``digests``: of the blobs; empty where
    one is not known.
    """

    outcome: pb.Outcome
    blobs: Sequence[memoryview]
    records: Any = None
    digests: Sequence[bytes] = ()


Ending = Answer | pb.Failure
Admission = Callable[[Answer], str | None]


@dataclass(slots=True)
class ClientState:
    """What a logical client keeps between its calls: its ``Context.state``."""

    content: pb.Content = field(default_factory=pb.Content)
    blobs: list[StoredBlob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that goes to one client or to many.

    ``frame`` lacks what only the driver knows: assignment, calls and the blobs' list. ``fold``:
    where the updates are summed, and ``sent`` then the message's arrays.
    """

    frame: pb.Task
    blobs: list[StoredBlob]
    kind: Kind
    fold: Fold | None = None
    sent: Mapping[str, Sent] = field(default_factory=dict)


@dataclass(slots=True)
class NewTask:
    """A message for one client.

    ``call`` lacks the client's state. ``admit`` decodes a reply and says why it must not count, or
    None. ``expires_in_s`` is the message's time to live; None: others see to that. ``held`` is
    called when the update is in a worker's sum, again if that is lost and the call made anew.
    ``state``: the client's, where the driver does not keep it. ``left`` is called when its phase is
    closed without it; how it ends is told by ``settled`` all the same.
    """

    id: int
    client: int
    call: pb.Call
    message: Outgoing
    admit: Admission
    settled: Callable[[Ending], None]
    expires_in_s: float | None
    held: Callable[[Answer], None] = lambda answer: None
    state: ClientState | None = None
    left: Callable[[pb.Failure], None] = lambda failure: None


def refusal_text(reason: str) -> str:
    """How a refused update is spoken of, wherever it was refused."""
    return f"the update was refused: {reason}"

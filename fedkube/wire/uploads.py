"""What a peer sends up: replies and sums, kept until the server has settled them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import UNASKED_BYTES
from fedkube.wire.stream import Stream


@dataclass(slots=True)
class Upload:
    """A reply or a sum. ``pieces``: the bytes of each blob that has to be sent, by its id."""

    frame: pb.Reply | pb.Sum
    pieces: dict[int, list[memoryview]] = field(default_factory=dict)
    asked: bool = False  # announced before: the server says what it lacks

    @property
    def nbytes(self) -> int:
        """Bytes that have to be sent."""
        return sum(len(piece) for pieces in self.pieces.values() for piece in pieces)

    @property
    def large(self) -> bool:
        """Whether it waits until the server asks for it."""
        return self.nbytes > UNASKED_BYTES

    def announcement(self) -> bytes:
        """The control frame; Rejected where it is too large for one."""
        self.frame.bytes_follow = not self.asked and not self.large
        if isinstance(self.frame, pb.Reply):
            return frames.control(pb.WorkerFrame(reply=self.frame))
        return frames.control(pb.WorkerFrame(sum=self.frame))


class Uploads:
    """The uploads that are not settled, in their order.

    ``stream``: by which they are sent. Without one, they wait for the next.
    """

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self._open: dict[int, Upload] = {}
        self._number = 0
        self._blobs = 0

    def add(
        self,
        frame: pb.Reply | pb.Sum,
        pieces: Sequence[Sequence[memoryview]],
        known: Collection[bytes],
    ) -> Upload:
        """Number an upload and its blobs. ``known``: digests of what the server itself sent us.

        A blob whose digest is there already is taken for what it says.
        """
        self._number += 1
        frame.upload = self._number
        upload = Upload(frame)
        for blob, parts in zip(frame.blobs, pieces, strict=True):
            self._blobs += 1
            blob.id = self._blobs
            blob.digest = blob.digest or _digest(parts)
            blob.held = blob.digest in known
            if not blob.held:
                upload.pieces[blob.id] = list(parts)
        self._open[self._number] = upload
        return upload

    def send(self, upload: Upload) -> None:
        """Announce it, with its bytes if they are few."""
        frame = upload.announcement()
        if self.stream is None:
            return
        self.stream.send(frame)
        if upload.frame.bytes_follow:
            for blob, pieces in upload.pieces.items():
                self.stream.send_data(blob, pieces, 0)

    def resume(self, stream: Stream) -> None:
        """There is a stream again: announce them once more; the server says what it lacks."""
        self.stream = stream
        for upload in self:
            upload.asked = True
            self.send(upload)

    def give(self, need: pb.Need) -> None:
        """Send what the server lacks of one."""
        upload = self._open.get(need.of)
        if upload is None:
            return
        for want in need.wants:
            pieces = upload.pieces.get(want.blob)
            if pieces is None or want.offset > sum(map(len, pieces)):
                raise Rejected(f"blob {want.blob} was asked for and never offered")
            if self.stream is not None:
                self.stream.send_data(want.blob, pieces, want.offset)

    def settle(self, number: int) -> None:
        """The server is done with it, and may not have wanted all of it."""
        upload = self._open.pop(number, None)
        if upload is not None and self.stream is not None:
            self.stream.forget(upload.pieces)

    @property
    def assignments(self) -> list[int]:
        """Those whose replies are among them."""
        return [each.frame.assignment for each in self if isinstance(each.frame, pb.Reply)]

    def __iter__(self) -> Iterator[Upload]:
        return iter(list(self._open.values()))

    @property
    def large(self) -> int:
        """How many of them are large."""
        return sum(upload.large for upload in self._open.values())


def _digest(parts: Iterable[memoryview]) -> bytes:
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()

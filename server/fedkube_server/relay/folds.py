"""What a relay's workers have sent of one message, until it goes up as one sum."""

from __future__ import annotations

from collections.abc import Mapping

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import updates
from fedkube_server.folds import Fold


class RelayFold(Fold):
    """A fold whose sum is not made a mean of, but sent on, perhaps several times.

    ``task``: the message, with how it is to be summed.
    """

    def __init__(self, task: pb.Task) -> None:
        items = updates.arrays(task.content)
        shapes = {item.name: tuple(item.shape) for item in items}
        self._room = 2 ** (62 - task.fold.bits)
        super().__init__(shapes, task.fold.weight_key, self._room)  # keeps as many bits
        self._number = task.fold.id
        self._dtypes = {item.name: item.dtype for item in items}

    @property
    def calls(self) -> list[int]:
        """Whose updates are in it, one that is just being added among them."""
        return list(self._calls)

    def take(self, names: Mapping[int, int]) -> tuple[pb.Sum, list[list[memoryview]]]:
        """The sum as it travels, without ids and digests, and its bytes; the fold is empty then.

        ``names``: what the server above calls the calls.
        """
        with self._lock:
            frame = pb.Sum(fold=self._number, calls=[names[call] for call in self._calls])
            pieces: list[list[memoryview]] = []
            for name in self.shapes:
                sums, unchanged = self._sums[name], self._unchanged[name]
                places = sorted(place for _, its in unchanged.values() for place in its)
                for dtype in sorted(sums) or [self._dtypes[name]]:
                    # Whose array is unchanged is said once, whatever the number of types.
                    entry = frame.tensors.add(name=name, dtype=dtype, unchanged=places)
                    places = []
                    if dtype in sums:
                        pieces.append(updates.describe(entry, sums[dtype], frame))
                self._sums[name], self._unchanged[name] = {}, {}
            self._calls.clear()
            self._weights.clear()
            self._left = self._room
            return frame, pieces

"""Arrays that the server sends: each kept once while anything refers to it, named by a number."""

from __future__ import annotations

import itertools
import threading
from weakref import WeakValueDictionary

import numpy as np

from fedkube.wire.tensors import digest


class StoredBlob:
    """Bytes that may be sent, with their digest. Gone when nothing refers to it any more.

    ``peaks``: by element type, the largest magnitudes of its blocks, as far as anybody has looked.
    """

    __slots__ = ("__weakref__", "data", "digest", "id", "peaks")

    def __init__(self, number: int, data: memoryview, checksum: bytes) -> None:
        self.id = number
        self.data = data
        self.digest = checksum
        self.peaks: dict[np.dtype[np.generic], list[float]] = {}


class BlobStore:
    """Gives the same blob for the same bytes, as long as it is in use."""

    def __init__(self) -> None:
        self._by_digest: WeakValueDictionary[bytes, StoredBlob] = WeakValueDictionary()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def find(self, checksum: bytes) -> StoredBlob | None:
        """The blob with this digest, if it is in use."""
        with self._lock:
            return self._by_digest.get(checksum)

    def put(self, data: memoryview, checksum: bytes | None = None) -> StoredBlob:
        """The blob of these bytes; ``checksum`` where their digest is known already."""
        checksum = digest(data) if checksum is None else checksum
        with self._lock:
            blob = self._by_digest.get(checksum)
            if blob is None:
                blob = StoredBlob(next(self._numbers), data, checksum)
                self._by_digest[checksum] = blob
            return blob

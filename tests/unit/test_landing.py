from __future__ import annotations

import contextlib
import gc
import os

import numpy as np
import pytest
from fedkube_server.landing import Landed, Spool

from fedkube.core.errors import Environment
from fedkube.core.partial_sums import BLOCK
from fedkube.wire.limits import CHUNK_BYTES

BYTES = np.random.default_rng(0).bytes(3 * CHUNK_BYTES + 17)


def land(spool, *data, dtype=None):
    """A room with these blobs written to it, chunk by chunk."""
    blobs = [Landed(len(each), dtype) for each in data]
    room = spool.room(blobs)
    for blob, each in zip(blobs, data, strict=True):
        for offset in range(0, len(each), CHUNK_BYTES):
            blob.write(offset, memoryview(each)[offset : offset + CHUNK_BYTES])
    return room, blobs


def files():
    """The unnamed files that are open; sockets of what other tests have left come and go."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            found += target.endswith("(deleted)") and "/pytest-" in target
    return found


@pytest.fixture(params=[10**9, 0], ids=["memory", "file"])
def spool(request, tmp_path):
    spool = Spool(tmp_path, heap_bytes=request.param)
    yield spool
    spool.close()


def test_what_lands_can_be_looked_at(spool):
    _, blobs = land(spool, BYTES, b"", b"odd", BYTES[::-1])
    assert [bytes(blob.view()) for blob in blobs] == [BYTES, b"", b"odd", BYTES[::-1]]
    assert all(blob.view().readonly for blob in blobs)
    assert bytes(blobs[0].read(5, 7)) == BYTES[5:12]


def test_a_view_outlives_its_room(spool):
    """Strategies that need every update keep it as long as they like."""
    room, (blob,) = land(spool, BYTES)
    view = blob.view()
    room.close()
    land(spool, BYTES[::-1])
    assert bytes(view) == BYTES


def test_nothing_has_a_name_in_the_folder(spool, tmp_path):
    land(spool, BYTES)
    assert list(tmp_path.iterdir()) == []


def test_blocks_come_with_their_largest_magnitudes(spool):
    values = np.random.default_rng(1).standard_normal(10 * BLOCK + 5, np.float32)
    _, (blob,) = land(spool, values.tobytes(), dtype=values.dtype)
    came = list(blob.blocks(values.dtype))
    assert sum(len(part) for _, part, _ in came) == len(values)
    for start, part, peaks in blob.blocks(values.dtype):
        assert part.tolist() == values[start : start + len(part)].tolist()
        assert peaks == [
            float(np.abs(part[at : at + BLOCK]).max()) for at in range(0, len(part), BLOCK)
        ]
    assert blob.magnitudes(values.dtype) == [peak for _, _, peaks in came for peak in peaks]


def test_a_blob_that_comes_again_has_its_magnitudes_taken_anew(spool):
    wrong, right = np.full(8, 9, np.float32), np.full(8, 2, np.float32)
    blob = Landed(32, right.dtype)
    spool.room([blob])
    blob.write(0, memoryview(wrong.tobytes()))
    blob.write(0, memoryview(right.tobytes()))
    assert blob.magnitudes(right.dtype) == [2.0]


def test_memory_is_bounded_and_given_back_with_the_last_view(tmp_path):
    spool = Spool(tmp_path, heap_bytes=200)
    gc.collect()  # or what other tests have left is closed while this one counts
    before = files()
    room, (blob,) = land(spool, bytes(80))
    assert files() == before
    second, _ = land(spool, bytes(80))
    assert files() == before + 1, "there is no memory for both"
    view = blob.view()
    room.close()
    del room, blob
    third, _ = land(spool, bytes(80))
    assert files() == before + 2, "somebody still looks at the first"
    del view
    gc.collect()
    land(spool, bytes(80))
    assert files() == before + 2
    second.close()
    third.close()


def test_a_file_is_used_again(tmp_path):
    spool = Spool(tmp_path, heap_bytes=0)
    room, _ = land(spool, BYTES)
    room.close()
    before = files()
    room, (blob,) = land(spool, b"short")
    assert files() == before
    assert bytes(blob.read(0, 5)) == b"short"


def test_a_file_that_is_looked_at_is_not_used_again(tmp_path):
    spool = Spool(tmp_path, heap_bytes=0)
    room, (blob,) = land(spool, BYTES)
    view = blob.view()
    room.close()
    room.close()
    other, _ = land(spool, BYTES[::-1])
    assert bytes(view) == BYTES
    other.close()


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    spool = Spool(tmp_path, heap_bytes=0)

    def full(*_):
        raise OSError(28, "No space left on device")

    blob = Landed(5)
    spool.room([blob])
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Environment, match=r"no room for the clients' updates.*No space left"):
        blob.write(0, memoryview(b"bytes"))


def test_a_folder_that_is_not_there_is_said_in_words(tmp_path):
    with pytest.raises(Environment, match="no room for the clients' updates"):
        Spool(tmp_path / "gone", heap_bytes=0).room([Landed(5)])


def test_what_the_server_has_is_looked_at_once():
    """Each of a thousand clients may send back a layer that it has not touched."""
    data = memoryview(bytearray(np.array([1.0, -3.0], np.float32).tobytes()))
    peaks = {}
    for _ in range(2):
        assert Landed.known(data, peaks).magnitudes(np.dtype("float32")) == [3.0]
        data[:] = bytes(8)
    assert Landed.known(data).magnitudes(np.dtype("float32")) == [0.0]
    assert Landed.known(data, peaks).magnitudes(np.dtype("int32")) == [0.0]

from __future__ import annotations

import gc

from fedkube_server.blobs import BlobStore

from fedkube.wire.tensors import digest


def test_the_same_bytes_are_kept_once():
    store = BlobStore()
    first, second = store.put(memoryview(b"abc")), store.put(memoryview(b"abc"))
    assert first is second
    assert first.digest == digest(b"abc")


def test_other_bytes_are_another_blob_with_another_number():
    store = BlobStore()
    blobs = [store.put(memoryview(data)) for data in (b"", b"a", b"b")]
    assert len({blob.id for blob in blobs}) == 3
    assert all(blob.id > 0 for blob in blobs)


def test_a_blob_that_nothing_refers_to_is_forgotten_and_its_number_is_not_used_again():
    store = BlobStore()
    number = store.put(memoryview(b"abc")).id
    gc.collect()
    assert len(store._by_digest) == 0
    assert store.put(memoryview(b"abc")).id > number


def test_a_digest_that_is_known_is_not_computed_again():
    store = BlobStore()
    assert store.put(memoryview(b"abc"), b"d" * 32).digest == b"d" * 32

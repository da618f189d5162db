from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from fedkube_client.segments import Segment, SegmentCache, layout


def open_descriptors():
    """Of segments: threads that other tests have left may open what they like."""
    folder = Path("/proc/self/fd")
    return sum("memfd:fedkube" in _target(each) for each in folder.iterdir())


def _target(descriptor):
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""  # closed meanwhile


@pytest.fixture
def cache():
    cache = SegmentCache(limit=100)
    yield cache
    cache.close()


def put(cache, nbytes, *digests):
    segment = Segment.create(nbytes)
    size = nbytes // max(1, len(digests))
    cache.add(segment, [(digest, i * size, size) for i, digest in enumerate(digests)])


# ------------------------------------------------------------- segments


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 5000])
def test_a_new_segment_is_zeros_of_exactly_that_size(nbytes):
    segment = Segment.create(nbytes)
    assert bytes(segment.view) == bytes(nbytes)
    segment.close()


def test_another_process_sees_the_same_bytes_through_the_descriptor():
    mine = Segment.create(10)
    theirs = Segment(os.dup(mine.descriptor), 10)
    mine.view[:3] = b"abc"
    assert bytes(theirs.view[:4]) == b"abc\0"
    theirs.view[3] = ord("d")
    assert bytes(mine.view[:4]) == b"abcd"
    mine.close()
    assert bytes(theirs.view[:4]) == b"abcd", "it lives as long as one of them holds it"
    theirs.close()


def test_a_segment_has_no_name():
    segment = Segment.create(10)
    assert os.fstat(segment.descriptor).st_nlink == 0
    segment.close()


def test_arrays_that_look_into_a_closed_segment_can_still_be_read():
    segment = Segment.create(16)
    segment.view[:] = bytes(range(16))
    array = np.frombuffer(segment.view[8:], "u1")
    segment.close()
    gc.collect()
    assert array.tolist() == list(range(8, 16))


def test_closing_gives_the_descriptor_back():
    before = open_descriptors()
    segments = [Segment.create(10) for _ in range(5)]
    assert open_descriptors() == before + 5 * 2, "the descriptor, and the mapping's own"
    for segment in segments:
        segment.close()
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("sizes", "offsets", "total"),
    [
        ([], [], 0),
        ([0], [0], 0),
        ([1, 1], [0, 64], 128),
        ([64, 65, 0, 3], [0, 64, 192, 192], 256),
    ],
)
def test_blobs_are_laid_out_one_after_the_other(sizes, offsets, total):
    assert layout(sizes) == (offsets, total)


# ------------------------------------------------------------- the cache


def test_what_was_added_is_found(cache):
    put(cache, 20, b"a", b"b")
    place = cache.find(b"b")
    assert (place.offset, place.nbytes) == (10, 10)
    assert cache.descriptor(place.segment)[1] == 20
    assert cache.find(b"c") is None
    assert cache.nbytes == 20


def test_within_the_limit_nothing_goes(cache):
    put(cache, 50, b"a")
    put(cache, 50, b"b")
    assert cache.shrink(used=[]) == []


def test_the_least_recently_used_goes_first(cache):
    for digest in (b"a", b"b", b"c"):
        put(cache, 50, digest)
    used = cache.find(b"a").segment
    dropped = cache.shrink(used=[])
    assert used not in dropped
    assert (cache.find(b"b"), cache.nbytes) == (None, 100)
    assert cache.find(b"a") is not None


def test_what_a_task_uses_stays_even_beyond_the_limit(cache):
    put(cache, 150, b"a")
    put(cache, 150, b"b")
    mine = cache.find(b"a").segment
    assert mine not in cache.shrink(used=[mine])
    assert cache.find(b"a") is not None
    assert cache.nbytes == 150


def test_a_digest_in_two_segments_is_found_in_the_newer_one_and_survives_the_older(cache):
    put(cache, 60, b"a", b"old")
    put(cache, 60, b"a", b"new")
    newer = cache.find(b"new").segment
    assert cache.find(b"a").segment == newer
    cache.shrink(used=[newer])
    assert cache.find(b"old") is None
    assert cache.find(b"a").segment == newer


def test_numbers_of_segments_are_never_used_again(cache):
    numbers = []
    for number in range(4):
        put(cache, 90, bytes([number]))
        numbers.append(cache.find(bytes([number])).segment)
        cache.shrink(used=[numbers[-1]])
    assert len(set(numbers)) == 4


def test_closing_drops_everything(cache):
    before = open_descriptors()
    put(cache, 50, b"a")
    put(cache, 50, b"b")
    cache.close()
    assert (cache.nbytes, cache.find(b"a"), open_descriptors()) == (0, None, before)


def test_a_descriptor_may_be_given_back_before_the_mapping():
    gc.collect()  # or what other tests have left is closed while this one counts
    before = open_descriptors()
    segment = Segment.create(4)
    segment.close_descriptor()
    segment.close_descriptor()
    segment.view[:] = b"abcd"
    assert bytes(segment.view) == b"abcd"
    segment.close()
    assert open_descriptors() == before


def test_a_segment_that_was_forgotten_gives_its_descriptor_back():
    before = open_descriptors()
    segment = Segment.create(4)
    del segment
    gc.collect()
    assert open_descriptors() == before


def test_what_no_task_has_used_for_long_goes_even_below_the_limit(cache):
    put(cache, 10, b"old model")
    put(cache, 10, b"in use")
    old, used = cache.find(b"old model").segment, cache.find(b"in use").segment
    dropped = [cache.shrink([used]) for _ in range(20)]
    assert dropped.count([old]) == 1
    assert [each for each in dropped if each] == [[old]]
    assert cache.find(b"in use") is not None


def test_what_is_used_now_and_then_stays(cache):
    put(cache, 10, b"a")
    number = cache.find(b"a").segment
    assert not any(cache.shrink([number] if task % 3 == 0 else []) for task in range(50))


def dropped(cache, *digests):
    """Have two newer ones of the same size come, so that these are of the past."""
    numbers = {cache.find(digest).segment for digest in digests}
    for newer in (b"n1", b"n2"):
        put(cache, 20, newer)
        cache.shrink(used=[cache.find(newer).segment])
    assert [cache.find(digest) for digest in digests] == [None] * len(digests)
    return numbers


def file_of(segment):
    return os.fstat(segment.descriptor).st_ino


def test_two_newer_ones_of_its_size_make_one_past(cache):
    put(cache, 20, b"a")
    cache.shrink(used=[cache.find(b"a").segment])
    put(cache, 20, b"b")
    cache.shrink(used=[cache.find(b"b").segment])
    assert cache.find(b"a") is not None, "with one, it may be wanted again"
    put(cache, 20, b"c")
    cache.shrink(used=[cache.find(b"c").segment])
    assert cache.find(b"a") is None


def test_small_ones_do_not_make_a_large_one_past(cache):
    put(cache, 50, b"base")
    for number in range(3):
        put(cache, 2, b"%d" % number)
        cache.shrink(used=[cache.find(b"%d" % number).segment])
    assert cache.find(b"base") is not None


def test_what_tasks_go_on_using_is_not_past(cache):
    put(cache, 20, b"frozen")
    for number in range(6):
        put(cache, 20, b"%d" % number)
        cache.shrink(used=[cache.find(each).segment for each in (b"frozen", b"%d" % number)])
    assert cache.find(b"frozen") is not None


def test_a_segment_that_nobody_looks_into_is_written_to_again(cache):
    put(cache, 20, b"a")
    file = os.fstat(cache.descriptor(1)[0]).st_ino
    cache.unmapped(dropped(cache, b"a"))
    again = cache.make(18)
    assert (file_of(again), again.nbytes) == (file, 20)
    assert file_of(cache.make(18)) != file, "it is given once"


def test_a_segment_is_not_written_to_before_the_executor_has_said_so(cache):
    put(cache, 20, b"a")
    file = os.fstat(cache.descriptor(1)[0]).st_ino
    dropped(cache, b"a")
    cache.unmapped([77])
    again = cache.make(20)
    assert file_of(again) != file
    cache.unmapped([1])
    assert file_of(cache.make(20)) != file, "it was given up"


def test_a_segment_that_is_looked_into_here_is_not_written_to(cache):
    put(cache, 20, b"a")
    view = cache.view(cache.find(b"a"))
    file = os.fstat(cache.descriptor(1)[0]).st_ino
    cache.unmapped(dropped(cache, b"a"))
    again = cache.make(20)
    again.view[:] = b"x" * again.nbytes
    assert file_of(again) != file
    assert bytes(view) == bytes(20)


def test_one_that_is_far_too_large_or_too_small_is_given_up(cache):
    cache.limit = 10_000_000
    before = open_descriptors()
    for nbytes, wanted in ((20, 21), (3_000_000, 900_000)):
        put(cache, nbytes, b"a")
        number = cache.find(b"a").segment
        for newer in (b"n1", b"n2"):
            put(cache, nbytes, newer)
            cache.shrink(used=[cache.find(newer).segment])
        cache.unmapped([number])
        made = cache.make(wanted)
        assert made.nbytes == wanted
        made.close()
    cache.close()
    assert open_descriptors() == before


def test_what_is_kept_to_be_written_to_counts_within_the_limit(cache):
    before = open_descriptors()
    put(cache, 60, b"a")
    put(cache, 60, b"b")
    first = cache.find(b"a").segment
    assert cache.shrink(used=[cache.find(b"b").segment]) == [first]
    cache.unmapped([first])
    assert open_descriptors() == before + 2, "60 more would be 120"

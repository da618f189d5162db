"""Sums in the server and in workers: the same mean, to the bit, whichever way updates come."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from fedkube_client.sums import HeldSum
from fedkube_server.blobs import BlobStore
from fedkube_server.folds import Fold, Late, sent_arrays
from fedkube_server.landing import Landed
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from fedkube.app.records import Encoder
from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import updates
from fedkube.wire.tensors import digest
from fedkube.wire.uploads import Uploads

KEY = "num-examples"
SHAPES = {"w": (300, 250), "b": (7,), "frozen": (11,), "empty": (0, 3), "scalar": ()}
GENERATOR = np.random.default_rng(5)


def arrays(scale=1.0, dtype="f4"):
    made = {name: GENERATOR.normal(size=shape) * scale for name, shape in SHAPES.items()}
    return {name: np.asarray(each, dtype) for name, each in made.items()}


SENT = arrays()
UPDATES = [arrays(10.0**k) | {"frozen": SENT["frozen"]} for k in (-3, 0, 0, 1, 2)]
WEIGHTS = [1, 50, 3, 7.5, 1000]


def records(values, weight):
    each = {name: Array(array) for name, array in values.items()}
    return RecordDict({"a": ArrayRecord(each), "m": MetricRecord({KEY: weight})})


def outcome(values, weight, call):
    """A call's outcome, and its blobs with their bytes."""
    encoder = Encoder()
    content = encoder.encode(records(values, weight))
    blobs = [pb.Blob(digest=digest(each), nbytes=len(each)) for each in encoder.blobs]
    return pb.Outcome(call=call, content=content), blobs, encoder.blobs


def sent_task():
    encoder = Encoder()
    content = encoder.encode(records(SENT, 1))
    stored = [BlobStore().put(memoryview(bytes(each))) for each in encoder.blobs]
    return content, stored


def task_of(made, number):
    """What a worker is told to sum, and its arrays."""
    content, stored = sent_task()
    blobs = [pb.Blob(digest=each.digest, nbytes=len(each.data)) for each in stored]
    task = pb.Task(content=content, fold=made.spec(number), blobs=blobs)
    return task, [each.data for each in stored]


def fold():
    return Fold(SHAPES, KEY, cohort=len(UPDATES))


def by_themselves(order):
    """Each update added as it is."""
    made = fold()
    sent = sent_arrays(*sent_task())
    for number in order:
        out, blobs, data = outcome(UPDATES[number], WEIGHTS[number], number)
        assert made.refusal(out, blobs) is None
        landed = [Landed.known(memoryview(bytes(each))) for each in data]
        assert made.unfit(out, landed) is None
        made.add(out, blobs, landed, sent)
    return made.mean()


def by_workers(groups):
    """Each group's updates summed by a worker."""
    made = fold()
    task, sent = task_of(made, 3)
    for group in groups:
        held = HeldSum(task, sent)
        outcomes = []
        for number in group:
            out, blobs, data = outcome(UPDATES[number], WEIGHTS[number], number)
            assert held.add(out, blobs, [memoryview(bytes(each)) for each in data]) is None
            assert out.held
            assert made.refusal(out, []) is None
            outcomes.append(out)
        update, pieces = held.export()
        upload = Uploads().add(update, pieces, set())
        assert list(update.calls) == list(group)
        made.check_sum(update)
        landed = [Landed.known(memoryview(b"".join(upload.pieces[b.id]))) for b in update.blobs]
        assert made.sum_unfit(update, outcomes[0], landed) is None
        made.add_sum(update, outcomes, landed, sent_arrays(*sent_task()))
    return made.mean()


def same(one, other):
    return all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


REFERENCE = by_themselves(range(len(UPDATES)))


def test_the_mean_is_flowers_to_rounding():
    flowers = aggregate_arrayrecords(
        [records(values, weight) for values, weight in zip(UPDATES, WEIGHTS, strict=True)], KEY
    )
    assert list(REFERENCE) == list(SHAPES)
    for name, shape in SHAPES.items():
        theirs = flowers[name].numpy()
        assert (REFERENCE[name].shape, REFERENCE[name].dtype) == (shape, theirs.dtype)
        scale = np.abs(theirs).max(initial=0.0) or 1.0
        np.testing.assert_allclose(REFERENCE[name], theirs, atol=1e-6 * scale)


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::17], ids=str)
def test_the_order_changes_no_bit(order):
    assert same(by_themselves(order), REFERENCE)


@pytest.mark.parametrize(
    "groups",
    [[[0, 1, 2, 3, 4]], [[4, 3], [2, 1, 0]], [[0], [1], [2], [3], [4]], [[2, 0], [1], [4, 3]]],
    ids=str,
)
def test_who_sums_what_changes_no_bit(groups):
    assert same(by_workers(groups), REFERENCE)


def test_an_array_that_nobody_changed_stays_as_it_is():
    assert REFERENCE["frozen"].tobytes() == SENT["frozen"].tobytes()


def test_an_array_that_one_client_changed_is_the_mean_of_all():
    made = fold()
    sent = sent_arrays(*sent_task())
    for number, values in enumerate((SENT, SENT, SENT | {"frozen": SENT["frozen"] + 8})):
        out, blobs, data = outcome(values, 2, number)
        made.add(out, blobs, [Landed.known(memoryview(bytes(each))) for each in data], sent)
    np.testing.assert_allclose(made.mean()["frozen"], SENT["frozen"] + 8 / 3, rtol=1e-6)


def test_updates_of_several_element_types_are_averaged():
    made = fold()
    sent = sent_arrays(*sent_task())
    for number, dtype in enumerate(("f4", "f8", "i4")):
        values = {name: np.full(shape, number, dtype) for name, shape in SHAPES.items()}
        out, blobs, data = outcome(values, 1, number)
        made.add(out, blobs, [Landed.known(memoryview(bytes(each))) for each in data], sent)
    mean = made.mean()["b"]
    assert (mean.dtype, mean.tolist()) == (np.dtype("f8"), [1.0] * 7)


# ------------------------------------------------------------- what must not count


def spoiled(**changes):
    return outcome({**SENT, **changes}, 1, 1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"b": np.zeros(8, "f4")}, r"array 'b' has shape \[8\], and \[7\] was sent"),
        ({"more": np.zeros(8, "f4")}, "it adds 'more'"),
    ],
)
def test_another_description_is_refused(values, reason):
    out, blobs, _ = spoiled(**values)
    assert re.search(reason, fold().refusal(out, blobs))


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), [1], 1e300, 1e-300])
def test_a_weight_that_is_none_is_refused_wherever_the_arrays_are(weight):
    out, blobs, _ = outcome(SENT, weight, 1)
    assert KEY in fold().refusal(out, blobs)
    out.held = True
    assert KEY in fold().refusal(out, [])


def test_a_size_that_does_not_fit_is_refused_before_its_bytes_come():
    out, blobs, _ = spoiled()
    blobs[0].nbytes -= 4
    assert "another number was announced" in fold().refusal(out, blobs)


def test_a_worker_that_knows_what_is_unchanged_makes_the_same_sum():
    """By its digest, without a look at its bytes: they may as well not be there."""
    looked_at, known = fold(), fold()
    task, sent = task_of(looked_at, 1)
    names = [item.name for item in updates.arrays(task.content)]
    sums = []
    for made, digests in ((looked_at, False), (known, True)):
        held = HeldSum(task, sent)
        for number in range(2):
            values = {**UPDATES[number], "w": SENT["w"]}
            out, blobs, data = outcome(values, WEIGHTS[number], number)
            views = [memoryview(bytes(each)) for each in data]
            for item, blob in zip(updates.arrays(out.content), blobs, strict=True):
                blob.digest = task.blobs[names.index(item.name)].digest if digests else b""
                if item.name != "w":
                    blob.digest = b""
                elif digests:
                    views[item.blob] = memoryview(b"")
            assert held.add(out, blobs, views) is None
        update, pieces = held.export()
        sums.append((update.SerializeToString(), [b"".join(each) for each in pieces]))
        assert {each.name: list(each.unchanged) for each in update.tensors}["w"] == [0, 1]
        assert made.weights == []
    assert sums[0] == sums[1]


def test_what_is_unchanged_and_was_not_finite_before_is_refused():
    task, sent = task_of(fold(), 1)
    out, blobs, data = outcome(SENT, 1, 1)
    places = {item.name: item.blob for item in updates.arrays(task.content)}
    sent[places["w"]] = memoryview(np.full_like(SENT["w"], np.nan).tobytes())
    for item, blob in zip(updates.arrays(out.content), blobs, strict=True):
        blob.digest = task.blobs[places[item.name]].digest
    assert HeldSum(task, sent).add(out, blobs, data) == "array 'w' holds NaN or infinity"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_in_the_server_and_in_a_worker(value):
    bad = SENT["w"].copy()
    bad[-1, -1] = value
    out, blobs, data = spoiled(w=bad)
    views = [memoryview(bytes(each)) for each in data]
    made = fold()
    assert made.unfit(out, list(map(Landed.known, views))) == "array 'w' holds NaN or infinity"
    held = HeldSum(*task_of(made, 1))
    assert held.add(out, blobs, views) == "array 'w' holds NaN or infinity"
    assert held.calls == []


def test_products_that_cannot_be_summed_are_refused():
    out, _, data = outcome(SENT | {"b": np.full(7, 1e300)}, 1e20, 1)
    landed = [Landed.known(memoryview(bytes(each))) for each in data]
    assert "too large to be summed" in fold().unfit(out, landed)


def test_more_updates_than_can_be_summed_are_refused():
    made = fold()
    made._left = 0
    out, blobs, data = spoiled()
    with pytest.raises(Rejected, match="more updates than the phase asked for"):
        made.add(out, blobs, [Landed.known(memoryview(bytes(each))) for each in data], {})


# ------------------------------------------------------------- sums that cannot be


def a_sum():
    held = pb.Sum(calls=[1, 2], fold=1)
    for name in SHAPES:
        held.tensors.add(name=name, dtype="float32", unchanged=[0, 1])
    return held


def unknown_array(held):
    held.tensors[0].name = "other"


def missing_array(held):
    del held.tensors[0]


def array_twice(held):
    held.tensors.append(held.tensors[0])


def no_such_blob(held):
    held.tensors[0].raw = True
    held.tensors[0].blob = 4


def raw_of_two(held):
    held.tensors[1].raw = True
    held.blobs.add(nbytes=28)


def wrong_size(held):
    held.tensors[1].blocks.append(0)
    held.tensors[1].bins.append(0)
    held.blobs.add(nbytes=28)


def no_such_block(held):
    held.tensors[1].blocks.append(1)
    held.tensors[1].bins.append(0)
    held.blobs.add(nbytes=56)


def no_such_bin(held):
    held.tensors[1].blocks.append(0)
    held.tensors[1].bins.append(1000)
    held.blobs.add(nbytes=56)


def other_numbers(held):
    held.tensors[1].blocks.append(0)
    held.blobs.add(nbytes=56)


def no_such_call(held):
    held.tensors[0].unchanged.append(2)


def no_such_type(held):
    held.tensors[1].dtype = "object"
    held.tensors[1].blocks.append(0)
    held.tensors[1].bins.append(0)
    held.blobs.add(nbytes=56)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unknown_array, "other arrays than were sent"),
        (missing_array, "other arrays than were sent"),
        (array_twice, "an array twice"),
        (no_such_blob, "there is no blob 4"),
        (raw_of_two, "announced as the update of one"),
        (wrong_size, "an impossible size"),
        (no_such_block, "block 1 of 1"),
        (no_such_bin, "bin 1000"),
        (other_numbers, "another number of bins"),
        (no_such_call, "calls that it does not have"),
        (no_such_type, "element type 'object' may not travel"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_sum_that_cannot_be_is_refused(spoil, reason):
    held = a_sum()
    fold().check_sum(held)
    spoil(held)
    with pytest.raises(Rejected, match=reason):
        fold().check_sum(held)


# ------------------------------------------------------------- late updates

NOW = arrays(0.5) | {"frozen": SENT["frozen"]}


def sent_now(values):
    encoder = Encoder()
    content = encoder.encode(records(values, 1))
    return sent_arrays(content, [BlobStore().put(memoryview(bytes(e))) for e in encoder.blobs])


def late(values, weight, call, then):
    out, blobs, data = outcome(values, weight, call)
    landed = [Landed.known(memoryview(bytes(each))) for each in data]
    return Late(out, [blob.digest for blob in blobs], landed, sent_now(then))


def with_late(order, share=0.25):
    """Of five updates the second and the fourth were late, to what was sent before."""
    made, sent = Fold(SHAPES, KEY, cohort=20), sent_now(NOW)
    for number in order:
        if number in (1, 3):
            made.add_late(late(UPDATES[number], WEIGHTS[number], number, SENT), sent, share)
        else:
            out, blobs, data = outcome(UPDATES[number], WEIGHTS[number], number)
            landed = [Landed.known(memoryview(bytes(each))) for each in data]
            made.add(out, blobs, landed, sent)
    return made


def test_a_late_update_counts_by_a_share_of_what_it_changed():
    made = with_late(range(5))
    assert made.weights == WEIGHTS, "its own weight"
    mean = made.mean()
    for name, shape in SHAPES.items():
        parts = [
            NOW[name] + 0.25 * (each[name].astype("f8") - SENT[name]) if n in (1, 3) else each[name]
            for n, each in enumerate(UPDATES)
        ]
        theirs = sum(w * part for w, part in zip(WEIGHTS, parts, strict=True)) / sum(WEIGHTS)
        assert (mean[name].shape, mean[name].dtype) == (shape, np.float32)
        scale = np.abs(theirs).max(initial=0.0) or 1.0
        np.testing.assert_allclose(mean[name], theirs, atol=1e-6 * scale)


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::29], ids=str)
def test_when_it_is_added_changes_no_bit(order):
    assert same(with_late(order).mean(), with_late(range(5)).mean())


def test_of_its_whole_share_an_update_to_what_is_sent_now_is_none_that_is_late():
    made, sent = Fold(SHAPES, KEY, cohort=20), sent_now(NOW)
    made.add_late(late(UPDATES[1], 50, 1, NOW), sent, 1.0)
    assert all(
        np.allclose(made.mean()[name], UPDATES[1][name], rtol=1e-6, atol=1e-6) for name in SHAPES
    )


def test_what_a_late_update_leaves_alone_stays_what_it_is_now():
    made, sent = Fold(SHAPES, KEY, cohort=20), sent_now(NOW)
    made.add_late(late(SENT, 3, 1, SENT), sent, 0.5)
    assert same(made.mean(), NOW)


def test_a_late_update_that_cannot_be_added_leaves_the_sum_as_it_was():
    made, sent = Fold(SHAPES, KEY, cohort=20), sent_now(NOW)
    huge = {name: np.full(shape, 3e38, "f4") for name, shape in SHAPES.items()}
    out, blobs, data = outcome(UPDATES[0], 1, 0)
    made.add(out, blobs, [Landed.known(memoryview(bytes(each))) for each in data], sent)
    with pytest.raises(Rejected, match="too large"):
        made.add_late(late(UPDATES[1], 1e300, 1, huge), sent, 0.5)
    assert made.weights == [1]
    assert np.allclose(made.mean()["w"], UPDATES[0]["w"])

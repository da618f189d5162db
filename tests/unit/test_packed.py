"""Compressed arrays from the executor to the sum: the same bits whoever unpacks, lies refused."""

from __future__ import annotations

import contextlib
import gc
import os
import tracemalloc

import numpy as np
import pytest
from fedkube_client.compressor import Compressor
from fedkube_client.sums import HeldSum
from fedkube_server.blobs import BlobStore
from fedkube_server.folds import Fold, sent_arrays
from fedkube_server.landing import Landed, Spool
from fedkube_server.unpacking import Unpacked, Unpacking
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fedkube.app.records import Encoder, decode
from fedkube.core.errors import Rejected
from fedkube.core.quantisation import BLOCK, Compression, packed_bytes
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, packed, updates
from fedkube.wire.tensors import DTYPES, digest

KEY = "num-examples"
GENERATOR = np.random.default_rng(3)
SENT = {
    "w": GENERATOR.standard_normal((300, 250)).astype("f4"),
    "double": GENERATOR.standard_normal(2 * BLOCK + 1),
    "frozen": GENERATOR.standard_normal(50).astype("f4"),
    "count": np.array(7, "i8"),
    "empty": np.zeros((0, 3), "f4"),
    "scalar": np.array(1.5, "f4"),
}
SIZES = {name: array.shape for name, array in SENT.items()}
BF16, INT8 = pb.COMPRESSION_BF16, pb.COMPRESSION_INT8
KINDS = pytest.mark.parametrize("kind", [BF16, INT8], ids=["bf16", "int8"])


def trained(seed=0):
    """What a client makes of what it was sent."""
    rng = np.random.default_rng(seed)
    changed = {
        name: (array + 0.01 * rng.standard_normal(array.shape)).astype(array.dtype)
        for name, array in SENT.items()
        if array.dtype.kind == "f"
    }
    return {**SENT, **changed, "frozen": SENT["frozen"], "count": np.array(8, "i8")}


def records(values, weight=3, name="arrays"):
    arrays = ArrayRecord({key: Array(np.asarray(array)) for key, array in values.items()})
    return RecordDict({name: arrays, "metrics": MetricRecord({KEY: weight})})


def message(compression, bound=False, sent=SENT):
    """A task, and its blobs' bytes."""
    encoder = Encoder()
    content = encoder.encode(records(sent))
    blobs = [pb.Blob(digest=digest(each), nbytes=len(each)) for each in encoder.blobs]
    task = pb.Task(content=content, compression=compression, bound=bound, blobs=blobs)
    return task, encoder.blobs


def reply(task, blobs, values, compressor=None, call=None, name="arrays"):
    """A call's outcome, its blobs and their bytes, as the executor makes them."""
    compressor = compressor or Compressor()
    call = call or pb.Call(id=1, partition=2, seed=11)
    encoder = Encoder()
    packing = compressor.packing(task, call, blobs)
    content = encoder.encode(records(values, name=name), packing)
    if packing is not None:
        compressor.done(packing)
    outcome = pb.Outcome(call=call.id, content=content)
    return outcome, [pb.Blob(nbytes=len(each)) for each in encoder.blobs], encoder.blobs


def array(outcome, name):
    (item,) = (each for each in packed.arrays(outcome.content) if each.name == name)
    return item


def unpacked(task, sent, outcome, data):
    """Every array's values, as the receiver has them; the outcome stays as it is."""
    items = packed.arrays(outcome.content)
    values = {}
    for item in items:
        if item.compression:
            base = packed.base_of(item, packed.arrays(task.content))
            whole = packed.restored(
                item, data[item.blob], None if base is None else sent[base.blob]
            )
        else:
            whole = data[item.blob]
        values[item.name] = np.frombuffer(whole, DTYPES[item.dtype]).reshape(tuple(item.shape))
    return values


# ------------------------------------------------------------- what is compressed


@KINDS
def test_floats_that_changed_are_compressed_and_nothing_else(kind):
    task, sent = message(kind)
    outcome, blobs, data = reply(task, sent, trained())
    compressed = {item.name for item in packed.packed(outcome.content)}
    assert compressed == {"w", "double", "scalar"}
    assert packed.refusal(task, outcome, blobs) is None
    assert len(data[array(outcome, "w").blob]) == packed_bytes(packed.KINDS[kind], 75_000)
    values = unpacked(task, sent, outcome, data)
    for name, want in trained().items():
        assert (values[name].dtype, values[name].shape) == (want.dtype, want.shape)
        # A hundredth of a step's size: the differences are about 0.01.
        np.testing.assert_allclose(values[name], want, atol=6e-4)
    assert values["frozen"].tobytes() == SENT["frozen"].tobytes()
    assert values["count"] == 8


def test_nothing_is_compressed_where_nobody_asked():
    task, sent = message(pb.COMPRESSION_NONE)
    outcome, _, data = reply(task, sent, trained())
    assert not list(packed.packed(outcome.content))
    assert unpacked(task, sent, outcome, data)["w"].tobytes() == trained()["w"].tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_travels_as_it_is_and_is_refused_as_ever(value):
    task, sent = message(INT8)
    values = trained()
    values["w"][0, 0] = value
    outcome, _, data = reply(task, sent, values)
    item = array(outcome, "w")
    assert not item.compression
    assert bytes(data[item.blob]) == values["w"].tobytes()


def test_arrays_of_other_names_types_and_shapes_travel_as_they_are():
    task, sent = message(INT8)
    values = trained()
    values |= {"w": values["w"].T.copy(), "more": np.ones(9, "f4")}
    values["double"] = values["double"].astype("f4")
    outcome, _, _ = reply(task, sent, values)
    assert {item.name for item in packed.packed(outcome.content)} == {"scalar"}


def test_a_gradient_under_the_weights_names_is_compressed_itself():
    """Its difference to the weights would be rounded to steps that are larger than all of it."""
    task, sent = message(INT8)
    gradient = {name: np.asarray(1e-4 * array, array.dtype) for name, array in trained().items()}
    outcome, blobs, data = reply(task, sent, gradient)
    assert array(outcome, "w").compression == INT8
    assert not array(outcome, "w").HasField("base")
    assert packed.refusal(task, outcome, blobs) is None
    values = unpacked(task, sent, outcome, data)
    np.testing.assert_allclose(values["w"], gradient["w"], atol=1e-4 * 5 / 127)


def test_the_record_of_a_reply_may_have_another_name():
    """Flower's older API: fitins.parameters and fitres.parameters."""
    task, sent = message(INT8)
    outcome, _, _ = reply(task, sent, trained(), name="fitres.parameters")
    assert array(outcome, "w").base == 0


def test_of_two_records_the_one_of_the_same_name_is_meant():
    other = {name: array + 1 for name, array in SENT.items()}
    both = records(SENT, name="other")
    both["arrays"] = records(other)["arrays"]
    encoder = Encoder()
    task = pb.Task(content=encoder.encode(both), compression=INT8)
    outcome, _, _ = reply(task, encoder.blobs, {"w": other["w"] + 0.5})
    assert array(outcome, "w").base == len(SENT)
    outcome, _, _ = reply(task, encoder.blobs, {"w": SENT["w"] + 0.5}, name="third")
    assert array(outcome, "w").base == 0


# ------------------------------------------------------------- how it is rounded


def bytes_of(outcome, data, name="w"):
    return bytes(data[array(outcome, name).blob])


def test_in_a_pool_rounding_depends_on_the_call_and_the_array_alone():
    task, sent = message(INT8)
    first = reply(task, sent, trained())
    # By another worker, which has served others before.
    busy = Compressor()
    reply(task, sent, trained(5), busy, pb.Call(id=9, partition=2, seed=99))
    second = reply(task, sent, trained(), busy)
    other = reply(task, sent, trained(), None, pb.Call(id=2, partition=2, seed=12))
    assert bytes_of(first[0], first[2]) == bytes_of(second[0], second[2])
    assert bytes_of(first[0], first[2]) != bytes_of(other[0], other[2])


def calls(compressor, task, sent, values, numbers):
    """What arrives of "w", summed, of calls with the same update each."""
    total = np.zeros(SENT["w"].shape)
    for number in numbers:
        call = pb.Call(id=number, partition=2, seed=number)
        outcome, _, data = reply(task, sent, values, compressor, call)
        total += unpacked(task, sent, outcome, data)["w"].astype("f8") - SENT["w"]
    return total


@KINDS
def test_where_the_worker_is_bound_what_is_lost_is_sent_with_the_next(kind):
    task, sent = message(kind, bound=True)
    wanted = 20 * (trained()["w"].astype("f8") - SENT["w"])
    kept = calls(Compressor(), task, sent, trained(), range(20))
    lost = 20 * calls(Compressor(), task, sent, trained(), [1])
    assert np.abs(kept - wanted).max() < 6e-4
    assert np.abs(lost - wanted).max() > 10 * np.abs(kept - wanted).max()


def test_the_clients_of_one_worker_have_errors_of_their_own():
    task, sent = message(INT8, bound=True)
    compressor = Compressor()
    first = reply(task, sent, trained(), compressor, pb.Call(id=1, partition=0, seed=1))
    other = reply(task, sent, trained(), compressor, pb.Call(id=2, partition=1, seed=2))
    again = reply(task, sent, trained(), compressor, pb.Call(id=3, partition=0, seed=3))
    assert bytes_of(first[0], first[2]) == bytes_of(other[0], other[2])
    assert bytes_of(first[0], first[2]) != bytes_of(again[0], again[2])


@pytest.mark.parametrize("how", ["told", "again", "by another server"])
def test_what_an_update_carried_that_did_not_count_is_carried_again(how):
    task, sent = message(INT8, bound=True)
    compressor = Compressor()

    def send(number, seed, known_as=None):
        call = pb.Call(id=known_as or number, partition=0, seed=number)
        outcome, _, data = reply(task, sent, trained(seed), compressor, call)
        return bytes_of(outcome, data)

    send(1, 1)
    second = send(2, 2)
    if how == "told":
        compressor.uncounted([2])
        third = send(3, 2)
    else:
        third = send(2, 2, known_as=None if how == "again" else 77)
    assert third == second
    assert send(4, 2) != second


def test_a_reply_that_could_not_be_encoded_changes_no_errors():
    task, sent = message(INT8, bound=True)
    compressor = Compressor()
    call = pb.Call(id=1, partition=0)
    packing = compressor.packing(task, call, sent)
    Encoder().encode(records(trained()), packing)  # and then its state could not be
    first, _, data = reply(task, sent, trained(), compressor, pb.Call(id=2, partition=0))
    fresh, _, fresh_data = reply(task, sent, trained(), None, pb.Call(id=2, partition=0))
    assert bytes_of(first, data) == bytes_of(fresh, fresh_data)


# ------------------------------------------------------------- the sum, wherever it is made


def fold():
    return Fold(SIZES, KEY, cohort=4)


def unpacks(task, sent, outcome, blobs, data, spool):
    """As the server does it: compressed arrays become blobs of their own."""
    landed = [Landed.known(memoryview(bytes(each))) for each in data]
    ours = packed.arrays(task.content)
    for item in list(packed.packed(outcome.content)):
        base = packed.base_of(item, ours)
        how = Unpacking(
            item.blob,
            packed.kind_of(item),
            DTYPES[item.dtype],
            int(np.prod(item.shape)),
            None if base is None else sent[base.blob],
        )
        packed.replace(item, len(blobs))
        blobs.append(pb.Blob(nbytes=how.nbytes))
        landed.append(Unpacked(landed[how.blob], how, spool))
    return landed


@KINDS
def test_server_and_worker_make_the_same_sum(kind, tmp_path):
    spool = Spool(tmp_path)
    task, sent = message(kind)
    store = BlobStore()
    stored = [store.put(memoryview(bytes(each))) for each in sent]
    here, there, plain = fold(), fold(), fold()
    task.fold.CopyFrom(there.spec(1))
    held = HeldSum(task, [each.data for each in stored])
    outcomes = []
    for number in range(3):
        call = pb.Call(id=number, partition=number, seed=number)
        outcome, blobs, data = reply(task, sent, trained(number), None, call)
        values = unpacked(task, sent, outcome, data)
        for_worker = pb.Outcome.FromString(outcome.SerializeToString())
        assert held.add(for_worker, list(blobs), data) is None
        outcomes.append(for_worker)
        landed = unpacks(task, sent, outcome, blobs, data, spool)
        assert here.refusal(outcome, blobs) is None
        assert here.unfit(outcome, landed) is None
        here.add(outcome, blobs, landed, sent_arrays(task.content, stored))
        again, blobs, data = reply(message(0)[0], sent, values)
        known = [Landed.known(memoryview(bytes(each))) for each in data]
        plain.add(again, blobs, known, sent_arrays(task.content, stored))
    update, pieces = held.export()
    landed = [Landed.known(memoryview(b"".join(each))) for each in pieces]
    there.check_sum(update)
    there.add_sum(update, outcomes, landed, sent_arrays(task.content, stored))
    one, other, third = here.mean(), there.mean(), plain.mean()
    for name in SENT:
        assert one[name].tobytes() == other[name].tobytes() == third[name].tobytes(), name


def test_sums_pay_from_so_many_clients_of_a_worker_on():
    content = message(0)[0].content
    # 8 bytes an element and sum; 4, 2 or about 1 an element and update.
    for kind, clients in ((Compression.NONE, 2), (Compression.BF16, 4), (Compression.INT8, 8)):
        few, many = 2 * clients - 1, 2 * clients + 1
        assert not packed.sums_pay(content, kind, few, 2)
        assert packed.sums_pay(content, kind, many, 2)


# ------------------------------------------------------------- arrays on the server's side


def an_unpacked(spool, kind=INT8, rows=75_000):
    base = np.random.default_rng(1).standard_normal(rows).astype("f4")
    values = base + np.float32(0.25)
    task, sent = message(kind, sent={"w": base})
    outcome, blobs, data = reply(task, sent, {"w": values})
    landed = unpacks(task, sent, outcome, blobs, data, spool)
    return landed[-1], base, values


@pytest.mark.parametrize("heap", [10**9, 0], ids=["memory", "file"])
def test_an_array_is_written_out_where_a_strategy_needs_it(tmp_path, heap):
    spool = Spool(tmp_path, heap_bytes=heap)
    array, _, values = an_unpacked(spool)
    view = array.view()
    assert view.readonly
    assert array.view().obj is view.obj, "once"
    whole = np.frombuffer(view, "f4")
    np.testing.assert_allclose(whole, values, atol=0.25 / 127)
    blocks = [each for _, each, _ in array.blocks(np.dtype("f4"))]
    assert np.concatenate(blocks).tobytes() == whole.tobytes()
    array.close()
    assert np.frombuffer(view, "f4").tobytes() == whole.tobytes(), "looked at still"


def files_in(folder):
    """What this process has open there, whether it has a name or not."""
    targets = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of the listing itself
            targets.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [each for each in targets if each.startswith(str(folder))]


def test_its_file_is_given_back(tmp_path):
    spool = Spool(tmp_path, heap_bytes=0)
    for _ in range(20):
        array, _, _ = an_unpacked(spool)
        array.view()
        array.close()
        array.close()
    del array
    gc.collect()
    spool.close()
    assert not files_in(tmp_path)


def test_it_is_never_on_the_heap_whole(tmp_path):
    spool = Spool(tmp_path, heap_bytes=0)
    array, _, values = an_unpacked(spool, rows=6_000_000)
    tracemalloc.start()
    array.view()
    for _ in array.blocks(np.dtype("f4")):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    array.close()
    assert peak < values.nbytes / 3


# ------------------------------------------------------------- descriptions that lie


def other_kind(outcome, blobs):
    array(outcome, "w").compression = BF16


def unknown_kind(outcome, blobs):
    array(outcome, "w").compression = 9


def opaque(outcome, blobs):
    array(outcome, "w").opaque = True


def integers(outcome, blobs):
    array(outcome, "w").dtype = "int32"


def no_type(outcome, blobs):
    array(outcome, "w").dtype = "object"


def impossible_shape(outcome, blobs):
    array(outcome, "w").shape[0] = 2**60


def no_such_base(outcome, blobs):
    array(outcome, "w").base = 6


def base_of_another_shape(outcome, blobs):
    array(outcome, "w").base = 2


def base_of_another_type(outcome, blobs):
    array(outcome, "double").base = 0


def no_such_blob(outcome, blobs):
    array(outcome, "w").blob = 99


def a_byte_less(outcome, blobs):
    blobs[array(outcome, "w").blob].nbytes -= 1


def a_block_more(outcome, blobs):
    blobs[array(outcome, "w").blob].nbytes += 4


def as_if_it_were_plain(outcome, blobs):
    blobs[array(outcome, "w").blob].nbytes = 300_000


def one_blob_for_two(outcome, blobs):
    twin = outcome.content.records[0].arrays.items.add()
    twin.CopyFrom(array(outcome, "w"))
    twin.name = "twin"


def one_blob_for_a_value_too(outcome, blobs):
    outcome.content.records[1].metrics.items.add(key="x", blob=array(outcome, "w").blob)


def one_blob_for_the_state_too(outcome, blobs):
    item = outcome.state.records.add(name="s").arrays.items.add()
    item.CopyFrom(array(outcome, "w"))
    item.ClearField("compression")


def in_the_state(outcome, blobs):
    outcome.state.records.add(name="s").arrays.items.add().CopyFrom(array(outcome, "w"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (other_kind, "array 'w' is compressed in a way that was not asked for"),
        (unknown_kind, "array 'w' is compressed in a way that was not asked for"),
        (opaque, "array 'w' is compressed, and hides its elements"),
        (integers, "of element type 'int32': only float32 and float64 are"),
        (no_type, "of element type 'object'"),
        (impossible_shape, "array 'w' is no tensor: shape [1152921504606846976, 250]"),
        (no_such_base, "array 'w' is the difference to array 6 of a message that has 6"),
        (base_of_another_shape, "the difference to 'frozen', which has another type or shape"),
        (base_of_another_type, "the difference to 'w', which has another type or shape"),
        (no_such_blob, "array 'w' is in blob 99, and 6 came"),
        (a_byte_less, "array 'w' takes 75296 bytes as int8, and another number was announced"),
        (a_block_more, "array 'w' takes 75296 bytes as int8, and another number was announced"),
        (as_if_it_were_plain, "array 'w' takes 75296 bytes as int8"),
        (one_blob_for_two, "array 'w' is compressed, and shares its bytes with something else"),
        (one_blob_for_a_value_too, "array 'w' is compressed, and shares its bytes"),
        (one_blob_for_the_state_too, "array 'w' is compressed, and shares its bytes"),
        (in_the_state, "the client's state holds a compressed array"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_description_that_lies_is_refused_by_server_and_worker(spoil, reason):
    task, sent = message(INT8)
    task.fold.CopyFrom(fold().spec(1))
    outcome, blobs, data = reply(task, sent, trained())
    assert packed.refusal(task, outcome, blobs) is None
    spoil(outcome, blobs)
    assert reason in packed.refusal(task, outcome, blobs)
    held = HeldSum(task, sent)
    assert reason in held.add(outcome, blobs, data)
    assert held.calls == []


@KINDS
def test_a_compressed_array_that_nobody_asked_for_is_refused(kind):
    task, sent = message(kind)
    outcome, blobs, _ = reply(task, sent, trained())
    reason = packed.refusal(message(0)[0], outcome, blobs)
    assert reason == "array 'w' is compressed in a way that was not asked for"


# ------------------------------------------------------------- bytes that lie


def with_scale(value):
    def spoil(data):
        np.frombuffer(data, "f4", 74)[-1:] = value

    return spoil


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e-9, 3e37])
def test_a_scale_that_is_none_is_refused(value, tmp_path):
    data = bytearray(packed_bytes(Compression.INT8, 75_000))
    with_scale(value)(data)
    assert "a scale that is no finite number" in refused_everywhere(INT8, data, tmp_path)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_a_difference_that_is_not_finite_is_refused(bits, tmp_path):
    data = bytearray(packed_bytes(Compression.BF16, 75_000))
    np.frombuffer(data, "u2")[-1:] = bits
    assert "holds NaN or infinity" in refused_everywhere(BF16, data, tmp_path)


def refused_everywhere(kind, data, folder):
    """What is said of these bytes by a worker, by the server's sum and to a strategy."""
    task, sent = message(kind)
    task.fold.CopyFrom(fold().spec(1))
    outcome, blobs, made = reply(task, sent, trained())
    made[array(outcome, "w").blob] = memoryview(data)
    for_worker = pb.Outcome.FromString(outcome.SerializeToString())
    with pytest.raises(Rejected) as of_worker:
        HeldSum(task, sent).add(for_worker, list(blobs), made)
    landed = unpacks(task, sent, outcome, blobs, made, Spool(folder, heap_bytes=0))
    with pytest.raises(Rejected) as of_sum:
        fold().unfit(outcome, landed)
    with pytest.raises(Rejected) as of_view:
        landed[array(outcome, "w").blob].view()
    assert of_worker.value.message == of_sum.value.message == of_view.value.message
    return of_worker.value.message


def test_a_difference_that_makes_infinity_of_the_base_is_found_by_the_check_of_the_sum(tmp_path):
    """Each is finite; only together they are not."""
    base = np.full(BLOCK, 3.4e38, "f4")
    task, sent = message(INT8, sent={"w": base})
    outcome, blobs, data = reply(task, sent, {"w": base - np.float32(1e37)})
    data[array(outcome, "w").blob] = memoryview(
        np.float32(1e36).tobytes() + np.full(BLOCK, 127, "i1").tobytes()
    )
    landed = unpacks(task, sent, outcome, blobs, data, Spool(tmp_path))
    reason = Fold({"w": (BLOCK,)}, KEY, 2).unfit(outcome, landed)
    assert reason == "array 'w' holds NaN or infinity"


def test_what_was_unpacked_is_what_flower_is_given(tmp_path):
    task, sent = message(INT8)
    outcome, blobs, data = reply(task, sent, trained())
    landed = unpacks(task, sent, outcome, blobs, data, Spool(tmp_path, heap_bytes=0))
    came = decode(outcome.content, [each.view() for each in landed])
    np.testing.assert_allclose(came["arrays"]["w"].numpy(), trained()["w"], atol=6e-4)
    assert came["metrics"][KEY] == 3
    assert updates.weight(contents.metrics(outcome.content), KEY) == 3

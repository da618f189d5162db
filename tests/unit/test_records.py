from __future__ import annotations

import enum

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkube.app import records
from fedkube.app.arrays import WireArray
from fedkube.app.records import Encoder, decode, from_values, set_value, to_values
from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.limits import INLINE_BYTES


def encoded(record_dict):
    encoder = Encoder()
    return encoder.encode(record_dict), encoder.blobs


def through(record_dict):
    content, blobs = encoded(record_dict)
    # As the wire has it: the content is parsed again, the blobs are other memory.
    return decode(pb.Content.FromString(content.SerializeToString()), _copies(blobs))


def _copies(blobs):
    return [memoryview(bytes(blob)) for blob in blobs]


def test_order_and_names_survive():
    sent = RecordDict()
    sent["z"] = MetricRecord({"b": 1, "a": 2})
    sent["a"] = ConfigRecord({"x": "y"})
    sent["m"] = ArrayRecord()
    sent["m"]["w2"], sent["m"]["w1"] = Array(np.zeros(1)), Array(np.ones(1))
    came = through(sent)
    assert list(came) == ["z", "a", "m"]
    assert list(came["z"]) == ["b", "a"]
    assert list(came["m"]) == ["w2", "w1"]
    assert came == sent


@pytest.mark.parametrize("kind", [ArrayRecord, MetricRecord, ConfigRecord])
def test_an_empty_record_stays_a_record_of_its_kind(kind):
    came = through(RecordDict({"r": kind()}))
    assert type(came["r"]) is kind
    assert len(came["r"]) == 0


def test_nothing_stays_nothing():
    assert through(RecordDict()) == RecordDict()


@pytest.mark.parametrize("number", [-(2**63), -1, 0, 2**63 - 1, 2**63, 2**64 - 1])
def test_integers_of_64_bits_survive(number):
    (came,) = through(RecordDict({"m": MetricRecord({"n": number})}))["m"].values()
    assert came == number
    assert type(came) is int


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_larger_integers_are_refused(number):
    with pytest.raises(Rejected, match=r"value 'n': .* does not fit into 64 bits"):
        encoded(RecordDict({"m": MetricRecord({"n": number})}))


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", b"1", [True], [1], [1.0], ["1"], [b"1"]])
def test_a_values_type_survives(value):
    (came,) = through(RecordDict({"c": ConfigRecord({"v": value})}))["c"].values()
    assert came == value
    assert type(came) is type(value)
    if isinstance(value, list):
        assert type(came[0]) is type(value[0])


def test_an_empty_list_stays_one():
    came = through(RecordDict({"m": MetricRecord({"l": []}), "c": ConfigRecord({"l": []})}))
    assert came["m"]["l"] == came["c"]["l"] == []


def test_bytes_up_to_the_limit_travel_in_the_frame_and_larger_ones_as_blobs():
    small, large = bytes(INLINE_BYTES), bytes(INLINE_BYTES + 1)
    content, blobs = encoded(RecordDict({"c": ConfigRecord({"s": small, "l": large})}))
    assert [bytes(blob) for blob in blobs] == [large]
    assert through(RecordDict({"c": ConfigRecord({"s": small, "l": large})}))["c"]["l"] == large
    assert content.ByteSize() < INLINE_BYTES + 100


def test_numpys_floats_travel_as_floats():
    (came,) = through(RecordDict({"m": MetricRecord({"v": np.float64(0.5)})}))["m"].values()
    assert (came, type(came)) == (0.5, float)


class _Odd(enum.Enum):
    A = 1


@pytest.mark.parametrize("value", [None, _Odd.A, {"a": 1}, (1, 2), [None], [[1]], [{}]])
def test_values_of_other_types_cannot_travel(value):
    with pytest.raises(ValueError, match="cannot travel"):
        set_value(pb.Value(), value)


def test_a_config_comes_back_flat_and_in_order():
    config = {"b": 1, "a": 2.0, "c": True, "d": "x"}
    came = from_values(to_values(config))
    assert came == config
    assert list(came) == list(config)


# ------------------------------------------------------------- arrays


def test_the_same_array_object_gives_one_blob():
    array = Array(np.ones(3))
    encoder = Encoder()
    messages = []
    for _ in range(2):
        record = ArrayRecord()
        record["a"] = record["b"] = array
        messages.append(encoder.encode(RecordDict({"r": record})))
    assert len(encoder.blobs) == 1
    used = {item.blob for each in messages for item in each.records[0].arrays.items}
    assert used == {0}


def test_arrays_made_and_dropped_while_encoding_do_not_share_a_blob():
    """Python gives the id of a dropped object again; the encoder must not be fooled by that."""
    encoder = Encoder()
    for number in range(50):
        record = ArrayRecord()
        record["a"] = Array(np.full(1, number))
        encoder.encode(RecordDict({"r": record}))
        del record
    assert [np.frombuffer(blob, "i8")[0] for blob in encoder.blobs] == list(range(50))


def test_an_array_that_is_what_was_received_is_not_looked_at_again():
    """A layer that an app does not touch goes back as the bytes that it came in."""
    received = [memoryview(np.arange(count, dtype=np.float32).tobytes()) for count in (4, 0, 6)]
    sent = Encoder()
    arrays = {str(n): Array(np.frombuffer(each, np.float32)) for n, each in enumerate(received)}
    content = sent.encode(RecordDict({"r": ArrayRecord(arrays)}))
    came = decode(content, received)["r"]
    copied, part = Array(came["0"].numpy()), WireArray(came["2"].elements[:4])
    encoder = Encoder(received=received)
    record = ArrayRecord()
    for name, array in (*came.items(), ("copied", copied), ("part", part)):
        record[name] = array
    encoder.encode(RecordDict({"r": record}))
    first, empty, third, copy, piece = encoder.blobs
    assert (first is received[0], third is received[2]) == (True, True)
    assert not any(each is old for each in (empty, copy, piece) for old in received)
    assert [bytes(each) for each in (empty, copy)] == [b"", bytes(received[0])]
    assert bytes(piece) == bytes(received[2][:16])


def test_the_older_apis_arrays_without_type_and_shape_survive():
    data = Array(np.arange(4.0)).data
    came = through(RecordDict({"r": ArrayRecord({"0": Array("", (), "numpy.ndarray", data)})}))
    array = came["r"]["0"]
    assert (array.dtype, array.shape, array.data) == ("", (), data)
    np.testing.assert_array_equal(array.numpy(), np.arange(4.0))


def test_the_apps_own_encoding_is_carried_untouched():
    sent = Array("whatever", (7, 8), "my.own", b"\x80\x04 opaque")
    came = through(RecordDict({"r": ArrayRecord({"a": sent})}))["r"]["a"]
    assert came == sent
    assert type(came) is Array


def test_big_endian_and_fortran_arrays_come_as_the_same_values():
    values = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    came = through(RecordDict({"r": ArrayRecord([values])}))["r"]["0"]
    np.testing.assert_array_equal(came.numpy(), values)
    assert came.dtype == ">i4"


def test_what_came_can_be_sent_on():
    sent = RecordDict({"r": ArrayRecord([np.arange(3.0), np.array(2, "u1")])})
    assert through(through(sent)) == sent


def test_too_many_arrays_are_refused(monkeypatch):
    monkeypatch.setattr(records, "MAX_BLOBS", 2)
    encoded(RecordDict({"r": ArrayRecord([np.zeros(1)] * 2)}))
    with pytest.raises(Rejected, match="at most 2 arrays"):
        encoded(RecordDict({"r": ArrayRecord([np.zeros(1)] * 3)}))


# ------------------------------------------------------------- what a peer may not send


def _one_array(**fields):
    item = {"name": "w", "dtype": "float32", "shape": [2], "stype": "numpy.ndarray", **fields}
    return pb.Content(records=[pb.Record(name="r", arrays=pb.Arrays(items=[pb.Array(**item)]))])


def _one_value(kind, **fields):
    values = pb.Values(items=[pb.Value(key="v", **fields)])
    return pb.Content(records=[pb.Record(name="r", **{kind: values})])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pb.Content(records=[pb.Record(name="r")]), "of no known kind"),
        (_one_array(blob=1), "there is no blob 1: 1 came"),
        (_one_array(shape=[3]), "8 bytes came"),
        (_one_array(dtype="complex64"), "may not travel"),
        (_one_array(dtype=""), "may not travel"),
        (_one_array(dtype="object"), "may not travel"),
        (_one_array(dtype=">f4"), "may not travel"),
        (_one_array(shape=[1] * 9), "rank 9"),
        (_one_array(shape=[2**63]), "impossible size"),
        (_one_value("metrics"), "value 'v' is empty"),
        (_one_value("metrics", text="x"), "value 'v'"),
        (_one_value("metrics", boolean=True), "value 'v'"),
        (_one_value("metrics", data=b"x"), "value 'v'"),
        (_one_value("metrics", blob=0), "value 'v'"),
        (_one_value("metrics", texts=pb.Strings(items=["x"])), "value 'v'"),
        (_one_value("configs", blob=7), "there is no blob 7"),
    ],
)
def test_content_that_breaks_a_rule_is_refused(content, reason):
    with pytest.raises(Rejected, match=reason):
        decode(content, [memoryview(bytes(8))])


def test_the_content_that_those_are_variations_of_is_accepted():
    assert decode(_one_array(), [memoryview(bytes(8))])["r"]["w"].numpy().tolist() == [0, 0]


def test_bytes_that_say_they_are_numpys_may_not_be_opaque():
    """Otherwise np.load() would be called on what a peer sent, and it opens zip archives."""
    data = Array(np.zeros(2, "f4")).data
    with pytest.raises(Rejected):
        decode(_one_array(opaque=True), [memoryview(data)])


@pytest.mark.parametrize(
    "content",
    [
        pb.Content(records=[pb.Record(name="r", metrics=pb.Values())] * 2),
        pb.Content(
            records=[pb.Record(name="r", metrics=pb.Values(items=[pb.Value(key="v", real=1)] * 2))]
        ),
        pb.Content(
            records=[
                pb.Record(
                    name="r", arrays=pb.Arrays(items=list(_one_array().records[0].arrays.items) * 2)
                )
            ]
        ),
    ],
    ids=["records", "values", "arrays"],
)
def test_names_that_come_twice_are_refused(content):
    with pytest.raises(Rejected):
        decode(content, [memoryview(bytes(8))])

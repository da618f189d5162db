from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from fedkube.app.arrays import WireArray, elements_of, from_bytes
from fedkube.core.errors import Rejected

VALUES = np.arange(6, dtype="<f4").reshape(2, 3)


@pytest.fixture
def sent():
    return Array(VALUES)


@pytest.fixture
def came():
    return from_bytes(memoryview(VALUES.tobytes()), "float32", (2, 3), "numpy.ndarray")


# ------------------------------------------------------------- behaves as Flower's own


def test_it_is_an_array_with_the_fields_that_were_sent(came, sent):
    assert isinstance(came, Array)
    assert (came.dtype, came.shape, came.stype) == (sent.dtype, sent.shape, sent.stype)
    assert came.data == sent.data
    assert type(came.data) is bytes


def test_numpy_gives_a_copy_that_can_be_written(came):
    copied = came.numpy()
    np.testing.assert_array_equal(copied, VALUES)
    copied[:] = -1
    np.testing.assert_array_equal(came.numpy(), VALUES)


def test_the_received_bytes_are_not_copied():
    data = bytearray(VALUES.tobytes())
    came = from_bytes(memoryview(data), "float32", (2, 3), "numpy.ndarray")
    assert np.shares_memory(came.elements, np.frombuffer(data, "u1"))


def test_equality_is_by_value_both_ways(came, sent):
    assert came == sent
    assert sent == came
    assert came == from_bytes(memoryview(VALUES.tobytes()), "float32", (2, 3), "numpy.ndarray")
    assert came != Array(VALUES + 1)
    assert came != Array(VALUES.reshape(3, 2))
    assert came != "something else"


def test_it_cannot_be_hashed_just_as_flowers_cannot(came, sent):
    for array in (came, sent):
        with pytest.raises(TypeError, match="unhashable"):
            hash(array)


def test_data_can_be_replaced(came):
    other = Array(np.ones(4))
    came.data = other.data
    assert came.data == other.data
    assert came.elements is None
    np.testing.assert_array_equal(came.numpy(), np.ones(4))
    np.testing.assert_array_equal(elements_of(came, "x"), np.ones(4))


def test_the_other_fields_can_be_replaced(came):
    came.dtype, came.shape, came.stype = "mine", (9,), "my.own"
    assert (came.dtype, came.shape, came.stype) == ("mine", (9,), "my.own")
    with pytest.raises(TypeError, match=r"my\.own"):
        came.numpy()


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda array: pickle.loads(pickle.dumps(array))]
)
def test_a_copy_is_a_plain_array_of_its_own(came, sent, duplicate):
    copied = duplicate(came)
    assert type(copied) is Array
    assert copied == sent


def test_a_record_copies_it_as_it_copies_any_array(came, sent):
    record = ArrayRecord({"w": came})
    assert record == ArrayRecord({"w": sent})
    assert record.count_bytes() == ArrayRecord({"w": sent}).count_bytes()


def test_a_record_gives_numpy_arrays(came):
    record = ArrayRecord()
    record["w"] = came
    (array,) = record.to_numpy_ndarrays()
    np.testing.assert_array_equal(array, VALUES)
    assert array.flags.writeable


@pytest.mark.parametrize("keep_input", [True, False])
def test_a_record_gives_a_torch_state_dict_that_can_be_trained(came, keep_input):
    record = ArrayRecord()
    record["weight"] = came
    state = record.to_torch_state_dict(keep_input=keep_input)
    assert torch.equal(state["weight"], torch.arange(6.0).reshape(2, 3))
    layer = torch.nn.Linear(3, 2, bias=False)
    layer.load_state_dict(state)
    state["weight"] += 1  # a view of memory that is not ours to write would be an error, or worse
    assert len(record) == (1 if keep_input else 0)


def test_declared_fields_win_over_those_of_the_bytes():
    came = from_bytes(memoryview(VALUES.tobytes()), "float32", (2, 3), "numpy.ndarray", "", ())
    assert (came.dtype, came.shape) == ("", ())
    np.testing.assert_array_equal(came.numpy(), VALUES)


def test_bytes_that_do_not_fit_are_refused():
    with pytest.raises(Rejected, match=r"4 bytes came for a tensor float32\[2\] of 8 bytes"):
        from_bytes(memoryview(bytes(4)), "float32", (2,), "numpy.ndarray")


# ------------------------------------------------------------- what may travel


def test_the_elements_of_flowers_array_are_a_view_of_its_bytes(sent):
    elements = elements_of(sent, "w")
    assert np.shares_memory(elements, np.frombuffer(sent.data, "u1"))


def test_the_elements_of_an_array_that_came_are_handed_on_as_they_are(came):
    assert elements_of(came, "w") is came.elements


@pytest.mark.parametrize(
    "values",
    [
        np.asfortranarray(VALUES),
        VALUES.astype(">f4"),
        VALUES[:, ::2],
        np.array(3.5, "f4"),
        np.zeros((0, 3), "f4"),
    ],
    ids=["fortran", "big-endian", "strided", "scalar", "empty"],
)
def test_elements_are_contiguous_and_little_endian(values):
    elements = elements_of(Array(values), "w")
    assert elements.flags.c_contiguous
    assert elements.dtype == np.dtype("<f4")
    assert elements.shape == values.shape
    np.testing.assert_array_equal(elements, values)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(2, "c8"),
        np.array(["a", "bc"]),
        np.array([b"ab"]),
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "m8[s]"),
    ],
    ids=["complex", "text", "bytes", "structured", "datetime", "timedelta"],
)
def test_other_element_types_may_not_travel(values):
    with pytest.raises(Rejected, match=r"array 'w' has element type .*, and only bool, int8"):
        elements_of(Array(values), "w")


def test_python_objects_may_not_travel():
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    array = Array("object", (1,), "numpy.ndarray", file.getvalue())
    with pytest.raises(Rejected, match="array 'w' holds Python objects"):
        elements_of(array, "w")


def _npy(header, body=b""):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


GOOD_HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


def test_a_file_by_hand_is_read():
    array = Array("float32", (2,), "numpy.ndarray", _npy(GOOD_HEADER, bytes(8)))
    np.testing.assert_array_equal(elements_of(array, "w"), np.zeros(2))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a zip",
        b"\x80\x04 a pickle",
        b"\x93NUMPY\x09\x00",
        _npy(b"{}"),
        _npy(b"{'descr': '<f4', (((\n"),
        _npy(GOOD_HEADER, bytes(4)),
        _npy(GOOD_HEADER, bytes(12)),
        _npy(GOOD_HEADER.replace(b"(2,)", b"(9999999999999,)"), bytes(8)),
        _npy(GOOD_HEADER)[:20],
    ],
    ids=[
        "nothing",
        "zip",
        "pickle",
        "version",
        "no keys",
        "half a header",
        "too short",
        "too long",
        "huge",
        "cut",
    ],
)
def test_bytes_that_are_no_npy_file_are_refused(data):
    array = Array("float32", (2,), "numpy.ndarray", data)
    with pytest.raises(Rejected, match="array 'w' says it is NumPy's, but its bytes are not"):
        elements_of(array, "w")


def test_bytes_of_the_apps_own_encoding_are_not_looked_at():
    assert elements_of(Array("", (), "my.own", b"\x80anything"), "w") is None


def test_an_array_that_came_is_named_in_its_repr(came):
    assert isinstance(came, WireArray)
    assert "float32" in repr(came)

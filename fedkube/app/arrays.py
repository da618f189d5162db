"""Flower's ``Array`` over bytes that have arrived, without the detour through NumPy's file format.

Flower keeps every array as the bytes of an ``.npy`` file. Building and parsing those costs more
than sending them, so an array that came over the exchange keeps the received bytes as they are, and
makes the file only for an app that asks for ``.data``.
"""

from __future__ import annotations

import io
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord
from flwr.common.constant import SType
from numpy.lib import format as npy

from fedkube.core.errors import AppInvalid, Rejected
from fedkube.wire.tensors import DTYPES, NAMES, view


class WireArray(Array):
    """An ``Array`` whose elements are a view of received bytes.

    Behaves as the ``Array`` it was sent as: ``numpy()`` gives a writable copy, ``data`` the bytes
    of an ``.npy`` file, and assigning to a field works.
    """

    def __init__(
        self,
        elements: npt.NDArray[np.generic],
        *,
        stype: str = SType.NUMPY,
        declared_dtype: str | None = None,
        declared_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.__dict__["_elements"] = elements
        self.dtype = NAMES[elements.dtype] if declared_dtype is None else declared_dtype
        self.shape = elements.shape if declared_shape is None else declared_shape
        self.stype = stype

    @property
    def elements(self) -> npt.NDArray[np.generic] | None:
        """The received elements, read-only in spirit; None once the app has put other data here."""
        elements: npt.NDArray[np.generic] | None = self.__dict__["_elements"]
        return elements

    @property
    def data(self) -> bytes:
        """The bytes of an ``.npy`` file, made on demand."""
        if (elements := self.elements) is None:
            replaced: bytes = self.__dict__["_replaced"]
            return replaced
        return _file(elements)

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__["_elements"] = None
        self.__dict__["_replaced"] = value

    def numpy(self) -> npt.NDArray[Any]:
        """A writable copy of the elements."""
        if (elements := self.elements) is None or self.stype != SType.NUMPY:
            return super().numpy()
        return elements.copy()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return (self.dtype, self.shape, self.stype, self.data) == (
            other.dtype,
            other.shape,
            other.stype,
            other.data,
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, as Array is

    def __reduce__(self) -> tuple[type[Array], tuple[str, tuple[int, ...], str, bytes]]:
        return (Array, (self.dtype, self.shape, self.stype, self.data))


# ----------------------------------------------------------------- arrays made here


def keep_elements() -> None:
    """Have Flower's ``Array`` keep a copy of the ndarray that it is made of.

    Flower makes an ``.npy`` file in memory of each, which is then copied and parsed again; most are
    never asked for their file. An array of elements that cannot travel is left to Flower. Once per
    process, before the app is loaded.
    """
    if hasattr(Array, "__getattr__"):
        return
    Array.from_numpy_ndarray = classmethod(_from_numpy)  # type: ignore[assignment,method-assign]
    Array.__getattr__ = _file_on_demand  # type: ignore[attr-defined]
    Array.__getstate__ = _with_file  # type: ignore[method-assign,assignment]
    ArrayRecord.from_array_dict = classmethod(_from_arrays)  # type: ignore[assignment,method-assign]
    Array.numpy = _numpy  # type: ignore[method-assign]


_flowers_from_numpy = Array.from_numpy_ndarray.__func__  # type: ignore[attr-defined]
_flowers_numpy = Array.numpy


def _from_numpy(cls: type[Array], ndarray: npt.NDArray[Any]) -> Array:
    name = NAMES.get(ndarray.dtype) if isinstance(ndarray, np.ndarray) else None
    if name is None:
        made: Array = _flowers_from_numpy(cls, ndarray)
        return made
    array = Array.__new__(Array)
    # A copy: the app may go on changing its own. ``np.save`` takes subclasses as plain arrays too.
    array.__dict__["_elements"] = np.array(ndarray, order="K", subok=False)
    array.dtype = name
    array.shape = tuple(ndarray.shape)
    array.stype = SType.NUMPY
    return array


def _from_arrays(
    cls: type[ArrayRecord], array_dict: dict[str, Array], *, keep_input: bool = True
) -> ArrayRecord:
    """Flower's own makes the file of each array. Elements are never changed, so both share them."""
    record = ArrayRecord()
    for name, array in array_dict.items():
        if _kept(array) is None:
            data = array.data
            record[name] = Array(array.dtype, tuple(array.shape), array.stype, data)
        else:
            twin = type(array).__new__(type(array))
            twin.__dict__.update(array.__dict__)
            record[name] = twin
    if not keep_input:
        array_dict.clear()
    return record


def _kept(array: Array) -> npt.NDArray[np.generic] | None:
    """The elements that an array was made of, unless the app has put other data there."""
    fields = array.__dict__
    return None if "data" in fields else fields.get("_elements")


def _file_on_demand(self: Array, name: str) -> Any:
    elements = _kept(self) if name == "data" else None
    if elements is None:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    return _file(elements)


def _with_file(self: Array) -> dict[str, Any]:
    """For a copy, or for another process: one that knows nothing of kept elements."""
    fields = {name: value for name, value in self.__dict__.items() if name != "_elements"}
    elements = _kept(self)
    return fields if elements is None else fields | {"data": _file(elements)}


def _numpy(self: Array) -> npt.NDArray[Any]:
    elements = _kept(self)
    if elements is None or self.stype != SType.NUMPY:
        return _flowers_numpy(self)
    return elements.copy(order="K")


def _file(elements: npt.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, elements, allow_pickle=False)
    return buffer.getvalue()


# ----------------------------------------------------------------- arrays as what they consist of


def fields_of(array: Array) -> tuple[Any, str, tuple[int, ...], str, bool]:
    """What ``from_fields`` makes the same array of; TypeError of one that stands for another."""
    if isinstance(array, FoldedArray):
        raise TypeError("an array that was summed")
    received = isinstance(array, WireArray)
    elements = array.elements if isinstance(array, WireArray) else _kept(array)
    content = array.data if elements is None else elements
    return content, array.dtype, array.shape, array.stype, received


def from_fields(
    content: npt.NDArray[np.generic] | bytes,
    dtype: str,
    shape: tuple[int, ...],
    stype: str,
    received: bool,
) -> Array:
    """An array of its elements, which are taken over, or of the bytes of its file."""
    if isinstance(content, bytes):
        return Array(dtype, shape, stype, content)
    if received:
        return WireArray(content, stype=stype, declared_dtype=dtype, declared_shape=shape)
    array = Array.__new__(Array)
    array.__dict__["_elements"] = content
    array.dtype, array.shape, array.stype = dtype, shape, stype
    return array


# ----------------------------------------------------------------- arrays that are in a sum


class FoldedArray(Array):
    """Stands for an array of one update that has gone into the sum of all.

    It tells its type and shape; ``data``, for Flower's older API, is an array of no elements.
    """

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.__dict__["_name"] = name
        self.dtype = "float32"
        self.shape = shape
        self.stype = SType.NUMPY

    @property
    def data(self) -> bytes:
        """What Flower's older API may pass on; see ``STAND_IN``."""
        return STAND_IN

    @data.setter
    def data(self, value: bytes) -> None:
        raise TypeError("an update that was summed cannot be changed")

    def numpy(self) -> npt.NDArray[Any]:
        """Not to be had: the updates of single clients were not kept."""
        raise AppInvalid(
            f"array {self.__dict__['_name']!r} of a single client was asked for, and the updates "
            "were summed as they came",
            hint='add fedkube-aggregation = "every-update" to the run config to keep every update',
        )


# The file of an array of no elements, in the place of one that was summed.
STAND_IN = _file(np.zeros(0, np.float32))


def from_bytes(
    data: memoryview,
    dtype: str,
    shape: tuple[int, ...],
    stype: str,
    declared_dtype: str | None = None,
    declared_shape: tuple[int, ...] | None = None,
) -> Array:
    """The array that was sent as these bytes; Rejected if type, shape and bytes do not fit."""
    return WireArray(
        view(data, dtype, shape),
        stype=stype,
        declared_dtype=declared_dtype,
        declared_shape=declared_shape,
    )


def elements_of(array: Array, name: str) -> npt.NDArray[np.generic] | None:
    """The array's elements as a contiguous little-endian array, without a copy where possible.

    None where the bytes are the app's own encoding, which is carried as it is. Rejected where the
    elements are of a type that may not travel.
    """
    if isinstance(array, WireArray) and array.elements is not None:
        return array.elements
    if array.stype != SType.NUMPY:
        return None
    elements = _kept(array)
    if elements is None:
        elements = _parse(array.data, name)
    wanted = elements.dtype if elements.dtype in NAMES else DTYPES.get(elements.dtype.name)
    if wanted is None:
        raise Rejected(
            f"array {name!r} has element type {elements.dtype}, and only "
            f"{', '.join(DTYPES)} can travel"
        )
    # ascontiguousarray would turn a scalar into a vector of one.
    return np.asarray(elements, dtype=wanted, order="C")


def _parse(data: bytes, name: str) -> npt.NDArray[np.generic]:
    """The array in an ``.npy`` file's bytes, as a view of them."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise Rejected(f"array {name!r} holds Python objects, which may not travel")
        flat = np.frombuffer(data, dtype, offset=file.tell())
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, SyntaxError, TokenError) as error:
        raise Rejected(
            f"array {name!r} says it is NumPy's, but its bytes are not: {error}"
        ) from None

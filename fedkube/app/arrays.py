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
from flwr.app import Array
from flwr.common.constant import SType
from numpy.lib import format as npy

from fedkube.core.errors import Rejected
from fedkube.wire.tensors import DTYPES, view


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
        self.dtype = str(elements.dtype) if declared_dtype is None else declared_dtype
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
        buffer = io.BytesIO()
        npy.write_array(buffer, elements, allow_pickle=False)
        return buffer.getvalue()

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
    elements = _parse(array.data, name)
    wanted = DTYPES.get(elements.dtype.name)
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

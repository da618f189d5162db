"""Changes of protobuf messages by their fields.

Changes of their bytes alone mostly break a length somewhere, and the parser, which is not ours,
refuses them; these get past it, to the code that reads what was parsed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

# The numbers and names that have gone wrong in decoders, and those that are asked for.
_WHOLE = (0, 1, 2, 3, 8, 9, 127, 2**31 - 1, 2**31, 2**32 - 1, 2**47, 2**48, 2**63 - 1, 2**63)
_REAL = (0.0, -0.0, 1.0, -1.5, 5e-324, 1.7e308, float("inf"), float("nan"))
_TEXT = (
    "",
    "a",
    "b",
    "numpy.ndarray",
    "float32",
    "float64",
    "int8",
    "bool",
    ">f4",
    "object",
    "num-examples",
    "\x00",
    "\U0001f600",
)
_BYTES = (b"", b"\x00", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04.")

_BOUNDS: dict[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def mutate(data: bytes, kind: type[Message], rng: random.Random) -> bytes | None:
    """The bytes of a message like the one in ``data``; None where there is none in it."""
    try:
        message = kind.FromString(data)
    except DecodeError:
        return None
    for _ in range(rng.randint(1, 4)):
        _change(rng.choice(list(_nodes(message))), rng)
    return message.SerializeToString()


def _nodes(message: Message) -> Iterator[Message]:
    """The message and all that it holds."""
    yield message
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            for each in value if field.is_repeated else [value]:
                yield from _nodes(each)


def _change(message: Message, rng: random.Random) -> None:
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    if not fields:
        return
    field = rng.choice(fields)
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        _change_items(getattr(message, field.name), field, rng)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _value(field, rng))


def _change_items(items: Any, field: FieldDescriptor, rng: random.Random) -> None:
    if items and rng.random() < 0.3:
        del items[rng.randrange(len(items))]
    elif field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE:
        items.append(_value(field, rng))
    elif items and rng.random() < 0.5:
        items.add().CopyFrom(rng.choice(items))  # the same name twice, for one
    else:
        items.add()


def _value(field: FieldDescriptor, rng: random.Random) -> Any:
    return _VALUES[field.cpp_type](field, rng)


def _whole(field: FieldDescriptor, rng: random.Random) -> int:
    least, most = _BOUNDS[field.cpp_type]
    value = rng.choice(_WHOLE) * rng.choice((1, 1, -1))
    return min(max(value, least), most)


def _text(field: FieldDescriptor, rng: random.Random) -> str | bytes:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice(_BYTES)
    return rng.choice(_TEXT)


_VALUES: dict[int, Callable[[FieldDescriptor, random.Random], Any]] = {
    **dict.fromkeys(_BOUNDS, _whole),
    FieldDescriptor.CPPTYPE_STRING: _text,
    FieldDescriptor.CPPTYPE_DOUBLE: lambda _, rng: rng.choice(_REAL),
    FieldDescriptor.CPPTYPE_FLOAT: lambda _, rng: rng.choice(_REAL),
    FieldDescriptor.CPPTYPE_BOOL: lambda _, rng: rng.random() < 0.5,
    # Readers of proto3 must take numbers that no name was given to.
    FieldDescriptor.CPPTYPE_ENUM: lambda _, rng: rng.choice((0, 1, 5, 99, -1)),
}

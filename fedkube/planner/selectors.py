"""Which devices an expression selects: CEL, with what Kubernetes' API adds to it for quantities."""

from __future__ import annotations

import json
import logging
import re
from functools import lru_cache
from typing import Any

from fedkube.planner.kubernetes import quantity

log = logging.getLogger("fedkube.planner")

# What an expression may be told of a device.
_KNOWN = {"driver", "attributes", "capacity", "allowMultipleAllocations"}
_MEMBERS = re.compile(r"\bdevice\s*\.\s*(\w+)")
_WORDS = re.compile(r"\w+")
# By these an expression looks at facts whose names it does not say.
_LOOKS_AT_ALL = re.compile(r"\.\s*(all|exists|exists_one|map|filter)\s*\(|\bsize\s*\(|\.\s*size\b")


@lru_cache(maxsize=1 << 18)
def holds(expression: str, facts: str) -> bool | None:
    """Whether an expression holds for a device, of which ``facts`` tells as JSON; None: unknown."""
    told = json.loads(facts)
    if not _LOOKS_AT_ALL.search(expression):
        # Devices differ by numbers of their own; by what is asked of them, most are the same.
        words = set(_WORDS.findall(expression))
        for kind in ("attributes", "capacity"):
            told[kind] = {
                domain: {name: value for name, value in named.items() if name in words}
                for domain, named in told[kind].items()
            }
    return _holds(expression, json.dumps(told))


@lru_cache(maxsize=1 << 16)
def _holds(expression: str, facts: str) -> bool | None:
    if not set(_MEMBERS.findall(expression)) <= _KNOWN:
        return None
    try:
        program = _program(expression)
        from celpy.adapter import json_to_cel
        from celpy.celtypes import MapType
        from celpy.evaluation import CELEvalError
    except Exception:  # the library is missing, or the expression is no expression for it
        log.warning("not understood: %s", expression, exc_info=True)
        return None

    class Domains(MapType):  # type: ignore[misc]  # which is not typed
        """Nothing is known of a device in a domain that it does not speak of."""

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__(key) if key in self else MapType()

    told = json_to_cel(json.loads(facts))
    for name in ("attributes", "capacity"):
        told[name] = Domains(told[name])
    try:
        return bool(program.evaluate({"device": told}))
    except CELEvalError as error:
        # An attribute that a device lacks makes the scheduler give up on the claim: it gets none.
        return False if "no such" in str(error) else None
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        return None


@lru_cache(maxsize=1024)
def _program(expression: str) -> Any:
    """The expression, ready to be evaluated."""
    from celpy import Environment
    from celpy.celtypes import BoolType, IntType

    def compared(one: Any, other: Any) -> Any:
        return IntType((one > other) - (one < other))

    functions: dict[str, Any] = {
        "quantity": lambda words: IntType(quantity(str(words), "")),
        "compareTo": compared,
        "isGreaterThan": lambda one, other: BoolType(one > other),
        "isLessThan": lambda one, other: BoolType(one < other),
    }
    environment = Environment()
    return environment.program(environment.compile(expression), functions=functions)

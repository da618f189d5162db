"""Which devices an expression selects: CEL, with what Kubernetes' API adds to it for quantities."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from fedkube.planner.kubernetes import quantity


@lru_cache(maxsize=65536)
def holds(expression: str, facts: str) -> bool | None:
    """Whether an expression holds for a device, of which ``facts`` tells as JSON; None: unknown."""
    program = _program(expression)
    if program is None:
        return None
    from celpy.adapter import json_to_cel
    from celpy.celtypes import MapType
    from celpy.evaluation import CELEvalError

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


@lru_cache(maxsize=1024)
def _program(expression: str) -> Any:
    """The expression, ready to be evaluated; None where that cannot be."""
    try:
        from celpy import Environment
        from celpy.celparser import CELParseError
        from celpy.celtypes import BoolType, IntType
    except ImportError:
        return None

    def compared(one: Any, other: Any) -> Any:
        return IntType((one > other) - (one < other))

    functions: dict[str, Any] = {
        "quantity": lambda words: IntType(quantity(str(words), "")),
        "compareTo": compared,
        "isGreaterThan": lambda one, other: BoolType(one > other),
        "isLessThan": lambda one, other: BoolType(one < other),
    }
    environment = Environment()
    try:
        return environment.program(environment.compile(expression), functions=functions)
    except CELParseError:
        return None

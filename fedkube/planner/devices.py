"""Devices that a cluster gives out by claims (dynamic resource allocation), in the planner's words.

Objects are those of ``resource.k8s.io``, v1beta1 to v1. Of a class, a node has as many of the
resource ``of_class`` as it has devices that the class selects and that nobody has claimed. Devices
that belong to no one node are not counted, nor those that several claims may share.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fedkube.core.accelerators import of_class
from fedkube.planner import selectors
from fedkube.planner.kubernetes import quantity
from fedkube.planner.supply import Node

Object = Mapping[str, Any]
Key = TypeVar("Key", bound=Hashable)

# A device's driver, pool and name; a counter's set and name.
DeviceId = tuple[str, str, str]
_Counter = tuple[str, str]
# A taint of these effects keeps new claims away.
_KEEPS_AWAY = ("NoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True)
class Device:
    """One of a slice's. ``facts``: what selectors are told of it, as JSON. ``kept``: from claims.

    ``consumes``: of its pool's counters, which the parts of one piece of hardware share: a GPU as a
    whole, or slices of it.
    """

    id: DeviceId
    facts: str
    consumes: tuple[tuple[_Counter, int], ...] = ()
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """Some devices of a pool, and counters that the pool's devices share."""

    driver: str
    pool: str
    generation: int
    node: str
    devices: tuple[Device, ...]
    counters: tuple[tuple[_Counter, int], ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """Devices of which all expressions hold."""

    name: str
    expressions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claimed(Generic[Key]):
    """The devices that a claim has. ``run``: whose worker has them."""

    devices: tuple[DeviceId, ...]
    run: Key | None = None


@dataclass(frozen=True, slots=True)
class Claims(Generic[Key]):
    """All of it at one moment."""

    slices: Sequence[Slice] = ()
    classes: Sequence[DeviceClass] = ()
    claimed: Sequence[Claimed[Key]] = ()

    def on(
        self, nodes: Iterable[Node], resources: Collection[str], runs: Collection[Key] = ()
    ) -> list[Node]:
        """The nodes with the devices of these classes that they have free.

        ``resources``: the classes', as ``of_class`` calls them. ``runs``: whose own claims do not
        count.
        """
        classes = [each for each in self.classes if of_class(each.name) in resources]
        if not classes:
            return list(nodes)
        taken = {
            each
            for claim in self.claimed
            if claim.run is None or claim.run not in runs
            for each in claim.devices
        }
        free: dict[str, Counter[str]] = defaultdict(Counter)
        for there in _newest(self.slices):
            free[there[0].node].update(_free(there, classes, taken))
        return [node.more(free.get(node.name, {})) for node in nodes]

    def obscure(self, resources: Collection[str]) -> list[str]:
        """Classes of these of which nobody here can say which devices they select."""
        devices = [device for each in self.slices for device in each.devices]
        return [
            each.name
            for each in self.classes
            if of_class(each.name) in resources
            and any(selects(each, device) is None for device in devices)
        ]


def _free(
    slices: Sequence[Slice], classes: Sequence[DeviceClass], taken: Collection[DeviceId]
) -> Counter[str]:
    """Of a pool, by resource."""
    devices = sorted((each for part in slices for each in part.devices), key=lambda each: each.id)
    counters = Counter({name: amount for part in slices for name, amount in part.counters})
    for device in devices:
        if device.id in taken:
            counters.subtract(dict(device.consumes))
    found: Counter[str] = Counter()
    for each in classes:
        left = counters.copy()
        for device in devices:
            if device.kept or device.id in taken or not selects(each, device):
                continue
            if all(left[name] >= amount for name, amount in device.consumes):
                left.subtract(dict(device.consumes))
                found[of_class(each.name)] += 1
    return found


def _newest(slices: Iterable[Slice]) -> Iterable[list[Slice]]:
    """The slices of each pool on each node, as the pool's driver has written them last."""
    slices = list(slices)
    newest: Counter[tuple[str, str]] = Counter()
    for each in slices:
        newest[each.driver, each.pool] = max(newest[each.driver, each.pool], each.generation)
    pools: dict[tuple[str, str, str], list[Slice]] = defaultdict(list)
    for each in slices:
        if each.generation == newest[each.driver, each.pool]:
            pools[each.driver, each.pool, each.node].append(each)
    return pools.values()


# ----------------------------------------------------------------- objects


def slice_of(body: Object) -> Slice | None:
    """A ResourceSlice; None if its devices are not one node's."""
    spec = body["spec"]
    node = spec.get("nodeName")
    if not node:
        return None
    driver, pool = spec["driver"], spec["pool"]
    return Slice(
        driver,
        pool["name"],
        int(pool.get("generation", 0)),
        node,
        tuple(_device(driver, pool["name"], each) for each in spec.get("devices") or []),
        tuple(
            ((shared["name"], name), quantity(amount["value"], ""))
            for shared in spec.get("sharedCounters") or []
            for name, amount in shared["counters"].items()
        ),
    )


def _device(driver: str, pool: str, body: Object) -> Device:
    # v1beta1 has a level more.
    told = body.get("basic") or body
    shared = bool(told.get("allowMultipleAllocations"))
    kept = any(each.get("effect") in _KEEPS_AWAY for each in told.get("taints") or [])
    facts = {
        "driver": driver,
        "attributes": _by_domain(driver, told.get("attributes") or {}, _attribute),
        "capacity": _by_domain(driver, told.get("capacity") or {}, _capacity),
        "allowMultipleAllocations": shared,
    }
    consumes = tuple(
        ((each["counterSet"], name), quantity(amount["value"], ""))
        for each in told.get("consumesCounters") or []
        for name, amount in each["counters"].items()
    )
    told_as = json.dumps(facts, sort_keys=True)
    return Device((driver, pool, body["name"]), told_as, consumes, kept or shared)


def _by_domain(
    driver: str, facts: Object, value: Callable[[Any], Any]
) -> dict[str, dict[str, Any]]:
    """By domain and name; one without a domain is of the driver's."""
    found: dict[str, dict[str, Any]] = {driver: {}}
    for name, each in facts.items():
        domain, _, own = name.rpartition("/")
        found.setdefault(domain or driver, {})[own] = value(each)
    return found


def _attribute(told: Object) -> Any:
    (value,) = told.values()  # by its type: string, int, bool or version
    return value


def _capacity(told: Any) -> int:
    return quantity(told["value"] if isinstance(told, Mapping) else told, "")


def class_of(body: Object) -> DeviceClass:
    """A DeviceClass."""
    spec = body.get("spec") or {}
    expressions = [
        (each.get("cel") or {}).get("expression") for each in spec.get("selectors") or []
    ]
    return DeviceClass(
        body["metadata"]["name"],
        # A selector of another kind than there is today cannot be told from none.
        tuple(each or "" for each in expressions),
    )


def devices_of(claim: Object) -> tuple[DeviceId, ...]:
    """Those that a ResourceClaim has, and nobody else can have."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or []
    return tuple(
        (each["driver"], each["pool"], each["device"])
        for each in results
        if not each.get("adminAccess")
    )


def selects(device_class: DeviceClass, device: Device) -> bool | None:
    """Whether a class selects a device; None where an expression is not understood here."""
    found = [selectors.holds(each, device.facts) for each in device_class.expressions]
    if False in found:
        return False
    return None if None in found else True

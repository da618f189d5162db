"""What nodes have free, and how many workers of one kind fit there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedkube.core.accelerators import class_in

# By resource: cpu in thousandths of a core, memory and storage in bytes, all others in units.
Amounts = Mapping[str, int]

PODS = "pods"
# Taints of these effects keep a pod away; the third, PreferNoSchedule, is a wish.
_KEEPS_AWAY = ("NoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True)
class Taint:
    """What a node has against pods that do not bear it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node. ``free``: what no pod has asked for. ``usable``: it is ready, and not cordoned."""

    name: str
    free: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    usable: bool = True

    def less(self, taken: Amounts) -> Node:
        """The same of which so much more is taken."""
        free = {name: max(0, amount - taken.get(name, 0)) for name, amount in self.free.items()}
        return replace(self, free=free)

    def more(self, added: Amounts) -> Node:
        """The same with so much more."""
        if not added:
            return self
        free = {**self.free}
        for name, amount in added.items():
            free[name] = free.get(name, 0) + amount
        return replace(self, free=free)


@dataclass(frozen=True, slots=True)
class Shape:
    """What one worker asks of a node.

    ``tolerations``: as a pod has them. ``terms``: of the required node affinity, of which one has
    to hold; none: any node will do.
    """

    requests: Amounts
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    terms: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """How many more workers fit. ``why``: what keeps it from being more."""

    by_node: Mapping[str, int]
    why: str

    @property
    def workers(self) -> int:
        """In all."""
        return sum(self.by_node.values())


def room(nodes: Iterable[Node], shape: Shape) -> Room:
    """How many workers of the shape fit on each node."""
    by_node, reasons = {}, Counter[str]()
    for node in nodes:
        reason = refusal(node, shape)
        count = 0 if reason else fitting(node.free, shape.requests)
        if count:
            by_node[node.name] = count
        reasons[reason or lacking(node.free, shape.requests, count)] += 1
    if not reasons:
        return Room({}, "there is no node")
    said = [f"{_nodes(count)} {reason}" for reason, count in sorted(reasons.items())]
    return Room(by_node, ", ".join(said))


def _nodes(count: int) -> str:
    return f"{count} node" + ("" if count == 1 else "s")


def fitting(free: Amounts, requests: Amounts) -> int:
    """How many times the requests are there."""
    counts = [free.get(name, 0) // amount for name, amount in requests.items() if amount > 0]
    if PODS in free:
        counts.append(free[PODS])
    return min(counts, default=0)


def lacking(free: Amounts, requests: Amounts, count: int) -> str:
    """What keeps one more than ``count`` from fitting, in words that go on from "3 nodes"."""
    asked = {**requests, PODS: 1} if PODS in free else dict(requests)
    for name in sorted(asked, key=lambda name: ("/" not in name, name)):
        if free.get(name, 0) < asked[name] * (count + 1):
            of = class_in(name)
            words = f"devices of class {of}" if of else name
            return (
                f"with no more {words} free" if free.get(name, 0) or count else f"without {words}"
            )
    return "with nothing asked of them"


def refusal(node: Node, shape: Shape) -> str:
    """Why the node takes no worker of the shape, whatever it has free; empty: it does."""
    if not node.usable:
        return "cordoned or not ready"
    for name, value in shape.node_selector.items():
        if node.labels.get(name) != value:
            return f"without the label {name}={value}"
    if shape.terms and not any(_holds(term, node) for term in shape.terms):
        return "outside of the affinity"
    for taint in node.taints:
        if taint.effect in _KEEPS_AWAY and not any(bears(e, taint) for e in shape.tolerations):
            return f"with the taint {taint.key}"
    return ""


def bears(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """Whether a toleration bears a taint, by Kubernetes' rules."""
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    key = toleration.get("key") or ""
    if toleration.get("operator", "Equal") == "Exists":
        return key in ("", taint.key)
    return key == taint.key and (toleration.get("value") or "") == taint.value


def _holds(term: Mapping[str, Any], node: Node) -> bool:
    by_label = term.get("matchExpressions") or []
    by_field = term.get("matchFields") or []
    if not by_label and not by_field:
        return False  # an empty term matches nothing
    return all(_matches(each, node.labels) for each in by_label) and all(
        _matches(each, {"metadata.name": node.name}) for each in by_field
    )


def _matches(requirement: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    name, values = requirement["key"], requirement.get("values") or []
    value = labels.get(name)
    match requirement["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                has, bound = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return has > bound if operator == "Gt" else has < bound
    return False

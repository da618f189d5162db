"""Kubernetes' objects, as ``kubectl get -o json`` prints them, in the planner's words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from fedkube.core.accelerators import DEVICES_ANNOTATION, of_class
from fedkube.planner.supply import PODS, Amounts, Node, Shape, Taint

Object = Mapping[str, Any]

_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([KMGTPE]i|[numkMGTPE]))?$")
_POWERS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def quantity(words: str | int | float, resource: str) -> int:
    """A quantity, as "500m" or "1.5Gi", in the planner's unit; ValueError if it is none.

    Rounded up, as Kubernetes does: what is asked for in part is taken as a whole.
    """
    found = _QUANTITY.match(str(words).strip())
    if found is None:
        raise ValueError(f"{words!r} is no quantity of {resource}")
    number = Decimal(found[1]) * Decimal(f"1{found[2] or 'e0'}")
    suffix = found[3] or ""
    number *= 2 ** _BINARY[suffix] if suffix in _BINARY else Decimal(10) ** _POWERS[suffix]
    if resource == "cpu":
        number *= 1000
    return int(number.to_integral_value(rounding="ROUND_CEILING"))


def amounts(quantities: Mapping[str, Any] | None) -> Counter[str]:
    """Quantities by resource, such as a node's ``allocatable``."""
    return Counter({name: quantity(words, name) for name, words in (quantities or {}).items()})


def node_of(body: Object) -> Node:
    """A node, with all that it has for pods as free."""
    spec, status = body.get("spec", {}), body.get("status", {})
    ready = any(
        each["type"] == "Ready" and each["status"] == "True"
        for each in status.get("conditions", [])
    )
    taints = tuple(
        Taint(each["key"], each.get("value") or "", each["effect"])
        for each in spec.get("taints") or []
    )
    metadata = body["metadata"]
    return Node(
        name=metadata["name"],
        free=dict(amounts(status.get("allocatable"))),
        labels=metadata.get("labels") or {},
        taints=taints,
        usable=ready and not spec.get("unschedulable", False),
    )


def is_over(pod: Object) -> bool:
    """Whether a pod takes nothing any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def pod_requests(pod: Object, defaults: Mapping[str, Any] | None = None) -> Amounts:
    """What the scheduler counts for a pod (or a pod template), itself included as one of "pods".

    Its containers together, or its greatest init container where that is more; those that go on
    beside the others (``restartPolicy: Always``) count with them. ``defaults``: of a container that
    says nothing.
    """
    spec = pod["spec"]
    beside = Counter[str]()
    begin = Counter[str]()
    for container in spec.get("initContainers") or []:
        asked = _asked(container, defaults)
        if container.get("restartPolicy") == "Always":
            beside.update(asked)
            begin |= beside
        else:
            begin |= asked + beside
    for container in spec.get("containers") or []:
        beside.update(_asked(container, defaults))
    total = beside | begin
    total.update(amounts(spec.get("overhead")))
    total.update(claimed(pod))
    total[PODS] = 1
    return dict(total)


def claimed(pod: Object) -> Amounts:
    """The devices that one of our pods claims, as resources."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    try:
        told = json.loads(annotations.get(DEVICES_ANNOTATION) or "{}")
        return {of_class(str(name)): int(count) for name, count in told.items()}
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return {}  # somebody else's words


def _asked(container: Object, defaults: Mapping[str, Any] | None) -> Counter[str]:
    resources = container.get("resources") or {}
    # Where only a limit is given, as for GPUs, it is the request as well.
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    return amounts({**(defaults or {}), **limits, **requests})


def default_requests(limit_ranges: Iterable[Object]) -> dict[str, Any]:
    """What a namespace's LimitRanges have containers ask for that do not say it themselves."""
    return {
        name: words
        for limits in limit_ranges
        for item in (limits.get("spec") or {}).get("limits") or []
        if item.get("type") == "Container"
        for name, words in (item.get("defaultRequest") or item.get("default") or {}).items()
    }


def without_pods(nodes: Iterable[Node], pods: Iterable[Object]) -> list[Node]:
    """The nodes with what the pods on them leave."""
    taken: dict[str, Counter[str]] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and not is_over(pod):
            taken.setdefault(node, Counter()).update(pod_requests(pod))
    return [node.less(taken.get(node.name, {})) for node in nodes]


def shape_of(template: Object, limit_ranges: Iterable[Object] = ()) -> Shape:
    """What a pod of the template asks of a node, with its namespace's LimitRanges."""
    spec = template["spec"]
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    asked = pod_requests(template, default_requests(limit_ranges))
    requests = {name: each for name, each in asked.items() if name != PODS}
    return Shape(
        requests=requests,
        node_selector=spec.get("nodeSelector") or {},
        tolerations=tuple(spec.get("tolerations") or ()),
        terms=tuple(required.get("nodeSelectorTerms") or ()),
    )


def quota_left(quotas: Iterable[Object]) -> Amounts | None:
    """What a namespace's ResourceQuotas leave for pods' requests; None: there is no limit.

    Quotas with scopes are for some pods only, and are left out.
    """
    left: dict[str, int] = {}
    for quota in quotas:
        spec, status = quota.get("spec") or {}, quota.get("status") or {}
        if spec.get("scopes") or spec.get("scopeSelector"):
            continue
        hard = status.get("hard") or spec.get("hard") or {}
        used = status.get("used") or {}
        for name, words in hard.items():
            resource = name.removeprefix("requests.")
            if resource.startswith(("limits.", "count/")):
                continue
            rest = quantity(words, resource) - quantity(used.get(name, 0), resource)
            left[resource] = min(rest, left.get(resource, rest))
    return left or None

"""What there is in the cluster for workers: its nodes, what pods take of them, devices, quotas.

Only what counts is kept of each object: a cluster may have ten thousand pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fedkube.coordinator.cluster import Cluster
from fedkube.coordinator.mirror import Mirror
from fedkube.coordinator.objects import ROLE_LABEL, RUN_LABEL, Object
from fedkube.core.accelerators import class_in
from fedkube.planner import devices, kubernetes
from fedkube.planner.devices import Claimed, Claims
from fedkube.planner.supply import Amounts, Node

# A run's namespace and name.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Taking:
    """A pod that is not over. ``node``: empty until it has one. ``run``: whose worker it is."""

    node: str
    amounts: Amounts
    run: Key | None


@dataclass(frozen=True, slots=True)
class View:
    """All of it at one moment. ``nodes``: as they would be without pods.

    ``quotas``, ``limits``: the ResourceQuotas and LimitRanges of each namespace. ``claims``: of
    devices; None: nobody may see them.
    """

    nodes: Sequence[Node]
    pods: Sequence[Taking]
    quotas: Mapping[str, Sequence[Object]]
    limits: Mapping[str, Sequence[Object]]
    claims: Claims[Key] | None = field(default_factory=Claims)

    def without(self, runs: Collection[Key], resources: Collection[str] = ()) -> list[Node]:
        """The nodes with what all pods leave but the workers of these runs.

        ``resources``: that are asked for; of devices by claims, others are not looked for.
        """
        taken: dict[str, Counter[str]] = {}
        for pod in self.pods:
            if pod.node and pod.run not in runs:
                taken.setdefault(pod.node, Counter()).update(pod.amounts)
        left = [node.less(taken.get(node.name, {})) for node in self.nodes]
        return left if self.claims is None else self.claims.on(left, resources, runs)

    def hides(self, resources: Collection[str]) -> bool:
        """Whether nobody can say how many devices of these are free."""
        if not any(class_in(name) for name in resources):
            return False
        return self.claims is None or bool(self.claims.obscure(resources))

    def held(self, run: Key) -> Counter[str]:
        """The run's workers by node."""
        return Counter(pod.node for pod in self.pods if pod.run == run and pod.node)

    def left(self, namespace: str, runs: Collection[Key]) -> Amounts | None:
        """What the namespace's quotas leave, as if these runs had no workers; None: no limit."""
        left = kubernetes.quota_left(self.quotas.get(namespace, ()))
        if left is None:
            return None
        theirs: Counter[str] = Counter()
        for pod in self.pods:
            if pod.run in runs and pod.run is not None and pod.run[0] == namespace:
                theirs.update(pod.amounts)
        return {name: amount + theirs[name] for name, amount in left.items()}


class Supply:
    """Follows the cluster."""

    def __init__(self, cluster: Cluster, namespaces: Sequence[str]) -> None:
        self._nodes = Mirror(cluster, "Node", "", kubernetes.node_of)
        self._pods = Mirror(cluster, "Pod", "", taking)
        self._quotas = {
            space: Mirror(cluster, "ResourceQuota", space, _said) for space in namespaces
        }
        self._limits = {space: Mirror(cluster, "LimitRange", space, _said) for space in namespaces}
        self._classes = Mirror(cluster, "DeviceClass", "", devices.class_of, optional=True)
        self._slices = Mirror(cluster, "ResourceSlice", "", devices.slice_of, optional=True)
        self._claims = Mirror(cluster, "ResourceClaim", "", claimed, optional=True)

    def start(self, changed: Callable[[], object]) -> None:
        """Begin to follow. ``changed``: called, on other threads, when something is another."""
        self._nodes.start(changed)
        self._pods.start(changed)
        for mirror in (*self._quotas.values(), *self._limits.values()):
            mirror.start(changed)
        for of_devices in (self._classes, self._slices, self._claims):
            of_devices.start(changed)

    @property
    def blind(self) -> bool:
        """Whether the right to see nodes or pods is missing."""
        return self._nodes.forbidden or self._pods.forbidden

    def view(self) -> View | None:
        """What is there now; None as long as it is not known."""
        nodes, pods = self._nodes.now(), self._pods.now()
        slices, classes, taken = self._slices.now(), self._classes.now(), self._claims.now()
        hidden = any(each.forbidden for each in (self._slices, self._classes, self._claims))
        if nodes is None or pods is None:
            return None
        claims = None
        if slices is not None and classes is not None and taken is not None:
            claims = Claims(slices, classes, taken)
        elif not hidden:
            return None
        quotas, limits = (
            {space: mirror.now() or () for space, mirror in each.items()}
            for each in (self._quotas, self._limits)
        )
        return View(nodes, pods, quotas, limits, claims)


def taking(pod: Object) -> Taking | None:
    """What a pod takes; None if it is over.

    A worker that is being deleted makes way within seconds. It counts as gone, or whoever is to
    have its place would lose another worker meanwhile.
    """
    if kubernetes.is_over(pod):
        return None
    metadata = pod["metadata"]
    labels = metadata.get("labels", {})
    run = None
    if labels.get(ROLE_LABEL) == "worker" and RUN_LABEL in labels:
        if "deletionTimestamp" in metadata:
            return None
        run = (metadata["namespace"], labels[RUN_LABEL])
    return Taking(pod["spec"].get("nodeName", ""), kubernetes.pod_requests(pod), run)


def claimed(claim: Object) -> Claimed[Key] | None:
    """What a claim has; None if that is nothing."""
    found = devices.devices_of(claim)
    metadata = claim["metadata"]
    labels = metadata.get("labels", {})
    ours = labels.get(ROLE_LABEL) == "worker" and RUN_LABEL in labels
    run = (metadata["namespace"], labels[RUN_LABEL]) if ours else None
    return Claimed(found, run) if found else None


def _said(body: Object) -> Object:
    return {name: body.get(name, {}) for name in ("spec", "status")}

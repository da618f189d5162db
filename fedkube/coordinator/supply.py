"""What there is in the cluster for workers: its nodes, what pods take of them, and quotas.

Only what counts is kept of each object: a cluster may have ten thousand pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from fedkube.coordinator.cluster import Cluster
from fedkube.coordinator.mirror import Mirror
from fedkube.coordinator.objects import ROLE_LABEL, RUN_LABEL, Object
from fedkube.planner import kubernetes
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

    ``quotas``, ``limits``: the ResourceQuotas and LimitRanges of each namespace.
    """

    nodes: Sequence[Node]
    pods: Sequence[Taking]
    quotas: Mapping[str, Sequence[Object]]
    limits: Mapping[str, Sequence[Object]]

    def without(self, runs: Collection[Key]) -> list[Node]:
        """The nodes with what all pods leave but the workers of these runs."""
        taken: dict[str, Counter[str]] = {}
        for pod in self.pods:
            if pod.node and pod.run not in runs:
                taken.setdefault(pod.node, Counter()).update(pod.amounts)
        return [node.less(taken.get(node.name, {})) for node in self.nodes]

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

    def start(self, changed: Callable[[], object]) -> None:
        """Begin to follow. ``changed``: called, on other threads, when something is another."""
        self._nodes.start(changed)
        self._pods.start(changed)
        for mirror in (*self._quotas.values(), *self._limits.values()):
            mirror.start(changed)

    @property
    def blind(self) -> bool:
        """Whether the right to see nodes or pods is missing."""
        return self._nodes.forbidden or self._pods.forbidden

    def view(self) -> View | None:
        """What is there now; None as long as it is not known."""
        nodes, pods = self._nodes.now(), self._pods.now()
        if nodes is None or pods is None:
            return None
        quotas, limits = (
            {space: mirror.now() or () for space, mirror in each.items()}
            for each in (self._quotas, self._limits)
        )
        return View(nodes, pods, quotas, limits)


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


def _said(body: Object) -> Object:
    return {name: body.get(name, {}) for name in ("spec", "status")}

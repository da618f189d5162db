"""A run as its objects are made from it, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedkube.api.v1alpha1 import FederatedRunSpec
from fedkube.api.v1alpha1.federated_run import API_VERSION, KIND
from fedkube.api.v1alpha1.groups import Site

Object = dict[str, Any]

RUN_LABEL = "fedkube.io/run"
ROLE_LABEL = "fedkube.io/role"
SITE_LABEL = "fedkube.io/site"
# By which a run joins a queue of Kueue.
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
# Of the server's Job: the spec that the run was begun with.
SPEC_ANNOTATION = "fedkube.io/spec"
PORT = 8470
RUN_FOLDER = "/var/lib/fedkube/run"
ORDERS_FOLDER = "/etc/fedkube/orders"
TLS_FOLDER = "/etc/fedkube/tls"
UNPACKED_FOLDER = "/opt/fedkube/app"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the coordinator was deployed with."""

    image: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    coordinator_labels: Mapping[str, str] | None = None
    coordinator_namespace: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A ``FederatedRun`` whose spec is valid. ``queue``: of Kueue, that its workers wait in.

    ``created``: when, as Kubernetes writes times.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    spec: FederatedRunSpec
    queue: str = ""
    created: str = ""

    @property
    def id(self) -> str:
        """Tells two runs of one name apart."""
        return f"{self.name}-{self.uid[:8]}"

    @property
    def seed(self) -> int:
        """The one that was asked for, or one that stays the same for this object."""
        if self.spec.seed is not None:
            return self.spec.seed
        return int(self.uid.replace("-", "")[:8], 16)

    def child(self, part: str) -> str:
        """The name of one of the run's objects."""
        return f"{self.name}-{part}"

    @property
    def server_host(self) -> str:
        """The server's name in the cluster's DNS."""
        return f"{self.child('server')}.{self.namespace}.svc"

    @property
    def app_folder(self) -> str:
        """Where the app is in the run's pods."""
        return UNPACKED_FOLDER if self.spec.app.bundle else self.spec.app.path

    def site_job(self, site: Site) -> str:
        """The name of a site's Job."""
        return self.child(f"site-{site.name}")

    @property
    def devices(self) -> dict[str, Mapping[str, int]]:
        """How many devices of which classes each pod claims, by its Job's name."""
        groups = [(self.child("server"), self.spec.server.pod)]
        if self.spec.pool is not None:
            groups.append((self.child("workers"), self.spec.pool.pod))
        groups += [(self.site_job(site), site.pod) for site in self.spec.sites]
        return {job: pod.devices for job, pod in groups if pod.devices}

    @property
    def parallelism(self) -> dict[str, int]:
        """How many pods each of the run's worker Jobs may have, by the Job's name."""
        if self.spec.pool is None:
            banned = self.spec.banned
            return {self.site_job(site): int(site.name not in banned) for site in self.spec.sites}
        return {self.child("workers"): self.spec.pool.most_workers}


def labels(run: Run, role: str) -> dict[str, str]:
    """By which a run's objects are found."""
    return {
        "app.kubernetes.io/name": "fedkube",
        "app.kubernetes.io/managed-by": "fedkube-coordinator",
        RUN_LABEL: run.name,
        ROLE_LABEL: role,
    }


def metadata(run: Run, part: str, role: str, *, owned: bool = True) -> Object:
    """Of the run's object for this part; it goes with the run, if the run owns it."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": run.name,
        "uid": run.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": run.child(part),
        "namespace": run.namespace,
        "labels": labels(run, role),
        **({"ownerReferences": [owner]} if owned else {}),
    }

"""What a run is made of on a cluster: each object as Kubernetes takes it. Pure.

All of a run's objects have names that follow from its own, so that creating one twice is the same
as creating it once, whoever does it.
"""

from fedkube.coordinator.objects.base import (
    PORT,
    QUEUE_LABEL,
    ROLE_LABEL,
    RUN_LABEL,
    SITE_LABEL,
    SPEC_ANNOTATION,
    Defaults,
    Object,
    Run,
    labels,
)
from fedkube.coordinator.objects.contents import certificates, claim, orders
from fedkube.coordinator.objects.events import event
from fedkube.coordinator.objects.jobs import queued, server_job, worker_jobs
from fedkube.coordinator.objects.network import disruption_budget, policies, service
from fedkube.coordinator.objects.pods import DEVICES_GROUP, device_templates

__all__ = [
    "DEVICES_GROUP",
    "PORT",
    "QUEUE_LABEL",
    "ROLE_LABEL",
    "RUN_LABEL",
    "SITE_LABEL",
    "SPEC_ANNOTATION",
    "Defaults",
    "Object",
    "Run",
    "certificates",
    "claim",
    "device_templates",
    "disruption_budget",
    "event",
    "labels",
    "orders",
    "policies",
    "queued",
    "server_job",
    "service",
    "worker_jobs",
]

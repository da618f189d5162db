"""What a person is told of a run by Kubernetes' Events."""

from __future__ import annotations

from datetime import datetime

from fedkube.api.v1alpha1.federated_run import API_VERSION, KIND
from fedkube.coordinator.objects.base import Object


def event(body: Object, warning: bool, reason: str, message: str, now: datetime) -> Object:
    """What `kubectl describe` tells a person of a run."""
    metadata = body["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            # As everyone names them, by the object and the time.
            "name": f"{metadata['name']}.{int(now.timestamp() * 1e6):x}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message[:1000],
        "source": {"component": "fedkube-coordinator"},
        "firstTimestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "lastTimestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "count": 1,
    }

"""Volumes for claims: folders as "local" volumes, which unlike hostPath ones honour fsGroup."""

from __future__ import annotations

import shutil
from typing import Any

from tests.cluster import settings
from tests.cluster.api import Api

_BY = "pv.kubernetes.io/provisioned-by"


def tend(api: Api) -> None:
    """Make a volume for each claim that waits, and remove those that were released."""
    for claim in api.get("/api/v1/persistentvolumeclaims")["items"]:
        spec = claim["spec"]
        waits = claim["status"]["phase"] == "Pending" and not spec.get("volumeName")
        if waits and spec.get("storageClassName") == settings.STORAGE_CLASS:
            _provide(api, claim)
    for volume in api.get("/api/v1/persistentvolumes")["items"]:
        metadata = volume["metadata"]
        ours = metadata.get("annotations", {}).get(_BY) == settings.PROVISIONER
        if ours and volume["status"].get("phase") == "Released":
            shutil.rmtree(settings.VOLUMES / metadata["name"], ignore_errors=True)
            api.delete(f"/api/v1/persistentvolumes/{metadata['name']}")


def _provide(api: Api, claim: dict[str, Any]) -> None:
    metadata = claim["metadata"]
    name = f"pvc-{metadata['uid']}"
    folder = settings.VOLUMES / name
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    api.post("/api/v1/persistentvolumes", volume(name, claim, str(folder)))


def volume(name: str, claim: dict[str, Any], folder: str) -> dict[str, Any]:
    """A volume that only this claim can have, and only this node."""
    metadata, spec = claim["metadata"], claim["spec"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [settings.NODE]}
    return {
        "metadata": {"name": name, "annotations": {_BY: settings.PROVISIONER}},
        "spec": {
            "capacity": spec["resources"]["requests"],
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": settings.STORAGE_CLASS,
            "claimRef": {
                "kind": "PersistentVolumeClaim",
                "apiVersion": "v1",
                "uid": metadata["uid"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
            },
            "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }

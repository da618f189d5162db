"""A pod that shows a run's disk for a moment, to whoever may exec into it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from fedkube.api.v1alpha1 import federated_run as api
from fedkube.cli.cluster import pods, runs
from fedkube.cli.cluster.options import note
from fedkube.core.errors import Environment, Usage

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

Object = dict[str, Any]

_MOUNT = "/run-folder"
# The images' own user, of which the run folder is.
_USER = 10001
# It ends by itself if whoever made it was killed.
_LIFE_S = 3600
_START_S = 180.0
_HINT_S = 10.0
_PAUSE_S = 0.5
_CONTAINER = "reader"

# Every image that runs an app has Python, and may have nothing else.
_SLEEP = f"import time; time.sleep({_LIFE_S})"
_LIST = """
import hashlib, json, os, sys
found = {}
for name in sys.argv[2:]:
    path = os.path.join(sys.argv[1], name)
    if os.path.isfile(path):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[name] = [os.path.getsize(path), digest]
print(json.dumps(found))
"""
_SEND = """
import shutil, sys
with open(sys.argv[1], "rb") as file:
    file.seek(int(sys.argv[2]))
    shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
"""


def listing_command(folder: str, names: tuple[str, ...]) -> list[str]:
    """What prints size and SHA-256 of those of the files that are there, as JSON."""
    return ["python3", "-c", _LIST, f"{_MOUNT}/{folder}", *names]


def sending_command(folder: str, name: str, offset: int) -> list[str]:
    """What prints a file's bytes from an offset on."""
    return ["python3", "-c", _SEND, f"{_MOUNT}/{folder}/{name}", str(offset)]


def parse_listing(printed: bytes, asked: tuple[str, ...]) -> dict[str, tuple[int, str]]:
    """Size and digest by name; Environment for what nobody asked for, or no listing at all."""
    try:
        found = {
            str(name): (int(size), str(digest))
            for name, (size, digest) in json.loads(printed).items()
        }
    except (ValueError, TypeError, AttributeError):
        raise Environment("the pod that reads the run's disk printed no listing") from None
    if strangers := sorted(set(found) - set(asked)):
        raise Environment(f"the pod that reads the run's disk sent {strangers[0]!r}, unasked")
    return found


def place(run: Object) -> tuple[str, str]:
    """The claim of the run folder, and the folder in it."""
    metadata, model = run["metadata"], runs.status(run).model
    if model is not None:
        return model.claim, model.path.rpartition("/")[0]
    # Where the coordinator puts them; a run without a model does not say it.
    return f"{metadata['name']}-run", f"{metadata['name']}-{metadata['uid'][:8]}"


def pod(run: Object, claim: str, image: str, template: Object) -> Object:
    """The pod. ``template``: the spec of the server's pod, for where it ran and by which secrets.

    It fits the Pod Security standard `restricted`, and a quota that wants limits.
    """
    metadata = run["metadata"]
    alike = ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "securityContext")
    spec: Object = {key: template[key] for key in alike if template.get(key)}
    spec.setdefault(
        "securityContext",
        {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    )
    container = {
        "name": _CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _SLEEP],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "run", "mountPath": _MOUNT, "readOnly": True}],
    }
    spec |= {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _LIFE_S,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [{"name": "run", "persistentVolumeClaim": {"claimName": claim}}],
    }
    owner = {"apiVersion": api.API_VERSION, "kind": api.KIND}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            # Several may pull one run at once.
            "name": f"{metadata['name']}-pull-{secrets.token_hex(4)}",
            "namespace": metadata["namespace"],
            "labels": {pods.RUN_LABEL: metadata["name"], pods.ROLE_LABEL: pods.READER},
            "ownerReferences": [owner | {"name": metadata["name"], "uid": metadata["uid"]}],
        },
        "spec": spec,
    }


def image_and_template(cluster: Api, run: Object, wanted: str) -> tuple[str, Object]:
    """The image that reads, and the spec of the server's pod if that is still there."""
    metadata = run["metadata"]
    job = cluster.find("Job", metadata["namespace"], f"{metadata['name']}-server")
    template: Object = job["spec"]["template"]["spec"] if job else {}
    of_job = str(template["containers"][0]["image"]) if template else ""
    of_run = str(((run.get("spec") or {}).get("app") or {}).get("image") or "")
    image = wanted or of_job or of_run
    if not image:
        raise Usage(
            "the run's pods are gone, and it does not say which image it had",
            hint="give --image with any image that has Python",
        )
    return image, template


@contextmanager
def running(cluster: Api, body: Object) -> Iterator[tuple[str, str]]:
    """The pod while it runs: its name and container. It is deleted afterwards, come what may."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    space, name = body["metadata"]["namespace"], body["metadata"]["name"]
    try:
        cluster.post(body)
        _await(cluster, space, name)
        yield name, _CONTAINER
    finally:
        # What has gone wrong before is what counts; a pod that stays ends by itself.
        with suppress(ApiException, HTTPError):
            cluster.delete("Pod", space, name)


def clear_away(cluster: Api, space: str, run: str) -> None:
    """Delete readers that have ended by themselves, since whoever made them was killed."""
    labels = f"{pods.RUN_LABEL}={run},{pods.ROLE_LABEL}={pods.READER}"
    for left in cluster.list("Pod", space, labels):
        if pods.has_ended(left):
            cluster.delete("Pod", space, left["metadata"]["name"])


def _await(cluster: Api, space: str, name: str) -> None:
    began, hinted = time.monotonic(), False
    while True:
        seen = cluster.find("Pod", space, name)
        if seen is None or pods.has_ended(seen):
            why = pods.trouble(seen) if seen else "somebody deleted it"
            raise Environment(f"the pod that reads the run's disk has ended: {why}")
        if (seen.get("status") or {}).get("phase") == "Running":
            return
        waited = time.monotonic() - began
        why = pods.trouble(seen)
        if waited > _START_S or (_hopeless(why) and waited > _HINT_S):
            said = why or _last_warning(cluster, space, name) or "Kubernetes does not say why"
            raise Environment(
                f"the pod that reads the run's disk did not start in {waited:.0f} s: {said}",
                hint=_mend(said),
            )
        if waited > _HINT_S and not hinted:
            hinted = True
            said = why or _last_warning(cluster, space, name) or "its disk and its image are got"
            note(f"waiting for the pod that reads the run's disk: {said}")
        time.sleep(_PAUSE_S)


def _hopeless(why: str) -> bool:
    return why.startswith(("InvalidImageName", "ErrImageNeverPull", "ImagePullBackOff"))


def _mend(why: str) -> str:
    if "Multi-Attach" in why or "already used by" in why or "already attached" in why:
        return "the disk is still at another node: wait until no pod of the run is left there"
    if "mage" in why:
        return "give --image with an image that the cluster can pull and that has Python"
    return ""


def _last_warning(cluster: Api, space: str, name: str) -> str:
    """Such as a disk that is still at another node, which the pod itself does not tell."""
    from kubernetes.client.exceptions import ApiException

    try:
        found, _ = cluster.listing("Event", space, f"involvedObject.name={name}")
    except ApiException:
        return ""  # events are for those who may read them
    warnings = [each for each in found if each.get("type") == "Warning"]
    return str(warnings[-1].get("message", "")).strip() if warnings else ""

"""A pod that shows the run folder to whoever may exec into it."""

from __future__ import annotations

from collections.abc import Sequence

from fedkube.api.v1alpha1.groups import Resources
from fedkube.coordinator.objects.base import RUN_FOLDER, Defaults, Object, Run, metadata
from fedkube.coordinator.objects.pods import Container, pod_template
from fedkube.wire.identity import Role

_READER_S = 900


def reader_pod(run: Run, image: str) -> Object:
    """A pod that shows the run folder to whoever may exec into it, and ends by itself."""
    folder = {"name": "fedkube-run", "mountPath": RUN_FOLDER, "readOnly": True}
    claim = {"name": "fedkube-run", "persistentVolumeClaim": {"claimName": run.child("run")}}
    plain = run.spec.server.pod.model_copy(update={"resources": Resources()})
    command = ["sleep", str(_READER_S)]
    wanted = Container(Role.OPERATOR, "operator", command, plain, [claim], [folder])
    pod = pod_template(run, Defaults(image), wanted)
    spec = pod["spec"]
    spec |= {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _READER_S,
        "terminationGracePeriodSeconds": 0,
    }
    # It only reads files: no certificate, and no app to unpack.
    spec.pop("initContainers", None)
    for part in (spec["volumes"], spec["containers"][0]["volumeMounts"]):
        part[:] = [each for each in part if each["name"] in ("fedkube-run", "fedkube-tmp")]
    described = metadata(run, "pull", "reader")
    return {"apiVersion": "v1", "kind": "Pod", "metadata": described, "spec": spec}


def reader_command(run: Run, names: Sequence[str]) -> list[str]:
    """What prints files of the run folder as a tar; those that are not there are left out."""
    script = 'cd "$0" && exec tar -cf - $(ls -d "$@" 2>/dev/null)'
    return ["sh", "-c", script, f"{RUN_FOLDER}/{run.id}", *names]

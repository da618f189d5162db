"""Reading a run's object."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fedkube.api.v1alpha1 import FederatedRunStatus, State
from fedkube.cli.words import age_in_words
from fedkube.core.errors import Exit, Usage

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

Object = dict[str, Any]


def get(cluster: Api, space: str, run: str) -> Object:
    """The run's object; Usage if there is none."""
    found = cluster.find("FederatedRun", space, run)
    if found is None:
        raise Usage(f"there is no run {run!r} in namespace {space!r}", hint="see `fedkube ls -A`")
    return found


def status(run: Object) -> FederatedRunStatus:
    """What the coordinator says of a run; of a new one it has said nothing yet."""
    return FederatedRunStatus.model_validate(run.get("status") or {})


def clients(run: Object) -> int:
    """Of a pool or of sites; the spec is asked where the coordinator has not looked yet."""
    if told := status(run).clients:
        return told
    spec = run.get("spec") or {}
    return int((spec.get("pool") or {}).get("clients") or len(spec.get("sites") or []))


def summary(run: Object) -> Object:
    """What a script wants to know of a run."""
    metadata = run["metadata"]
    said: Object = json.loads(status(run).model_dump_json(by_alias=True))
    described = {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "createdAt": metadata.get("creationTimestamp"),
    }
    return described | said | {"clients": clients(run)}


def age(body: Object, now: datetime | None = None) -> str:
    """How long ago an object was created."""
    return since(body["metadata"].get("creationTimestamp"), now)


def since(moment: str | None, now: datetime | None = None) -> str:
    """How long ago a moment is, as Kubernetes writes moments."""
    if not moment:
        return "?"
    ago = (now or datetime.now(UTC)) - datetime.fromisoformat(moment)
    return age_in_words(ago.total_seconds())


def why(run: Object) -> str:
    """The sentence that says how the run ended, or what it waits for."""
    said = {each.type: each.message for each in status(run).conditions}
    return said.get("Complete") or said.get("Ready") or ""


def exit_code(run: Object) -> Exit:
    """As `fedkube run` would have ended."""
    said = status(run)
    if said.state is State.SUCCEEDED:
        return Exit.OK
    if said.state is State.STOPPED:
        return Exit.STOPPED
    reasons = {each.reason for each in said.conditions if each.type == "Complete"}
    return Exit.APP_INVALID if "AppInvalid" in reasons else Exit.RUN_FAILED

"""What a run's object asks for, and what of it is in force. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from fedkube.api.v1alpha1 import FederatedRunSpec
from fedkube.api.v1alpha1.federated_run import MAX_NAME, MAX_NAME_AND_SITE
from fedkube.coordinator.objects import QUEUE_LABEL, Run

# A run's server keeps the spec as an annotation, and 256 KiB of those is the most.
_MAX_SPEC = 200_000
# What a run takes note of at any time; a pool's workers, and who is banned, besides.
_CHANGEABLE = ("suspend", "active_deadline_seconds", "ttl_seconds_after_finished", "sharing")


def in_force(body: Mapping[str, Any], begun: str | None) -> tuple[Run, str]:
    """The run as it goes on, and in what way that is not what its object says now.

    ``begun``: the spec that it was begun with. Of what was changed since, only that counts which
    can be changed while it runs.
    """
    if begun is None:
        return read(body), ""
    before = FederatedRunSpec.model_validate_json(begun, extra="ignore")
    banned = _banned(body, before)
    try:
        now = read(body).spec
    except ValueError as error:
        # Whatever else is wrong: who is kept out stays out.
        spec = before.model_copy(update={"banned": banned})
        return _run(body["metadata"], spec), str(error)
    changes: dict[str, Any] = {name: getattr(now, name) for name in _CHANGEABLE}
    changes["banned"] = banned
    if before.pool is not None and now.pool is not None:
        changes["pool"] = before.pool.model_copy(update={"workers": now.pool.workers})
    spec = before.model_copy(update=changes)
    fixed = [
        to_camel(name)
        for name in type(spec).model_fields
        if getattr(spec, name) != getattr(now, name)
    ]
    deviation = f"{', '.join(fixed)} cannot be changed in a run that has begun" if fixed else ""
    return _run(body["metadata"], spec), deviation


def _banned(body: Mapping[str, Any], begun: FederatedRunSpec) -> list[str]:
    """Those of the run's sites that its object bans, whatever else it says."""
    said = (body.get("spec") or {}).get("banned") or []
    names = {site.name for site in begun.sites}
    return [name for name in said if name in names] if isinstance(said, list) else begun.banned


def read(body: Mapping[str, Any]) -> Run:
    """A run from its object; ValueError with a sentence where its spec will not do."""
    metadata = body["metadata"]
    if len(metadata["name"]) > MAX_NAME:
        raise ValueError(f"the run's name is longer than {MAX_NAME} characters")
    if "." in metadata["name"]:
        raise ValueError("the run's name has a dot in it, and its parts' names may have none")
    size = len(json.dumps(body.get("spec", {})))
    if size > _MAX_SPEC:
        raise ValueError(f"spec: it takes {size:,} characters, and at most {_MAX_SPEC:,} fit")
    try:
        # What a newer definition has brought in is nothing that a run should end of.
        spec = FederatedRunSpec.model_validate(body.get("spec", {}), extra="ignore")
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(each) for each in error.errors())) from None
    for site in spec.sites:
        if len(metadata["name"]) + len(site.name) > MAX_NAME_AND_SITE:
            raise ValueError(
                f"the names of the run and of site {site.name} have more than {MAX_NAME_AND_SITE} "
                "characters together"
            )
    return _run(metadata, spec)


def _run(metadata: Mapping[str, Any], spec: FederatedRunSpec) -> Run:
    return Run(
        metadata["name"],
        metadata["namespace"],
        metadata["uid"],
        metadata["generation"],
        spec,
        metadata.get("labels", {}).get(QUEUE_LABEL, ""),
        metadata.get("creationTimestamp", ""),
    )


def _sentence(error: Any) -> str:
    where = ".".join(["spec", *(str(part) for part in error["loc"])])
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"

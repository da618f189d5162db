"""Objects that will not do: each is refused, or its condition says what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bad_objects import BAD, UNKNOWN
from on_cluster import Cluster, federated_run


def test_objects_that_will_not_do_one_by_one(cluster: Cluster) -> None:
    refused, accepted = {}, {}
    for number, (why, spec) in enumerate(BAD.items()):
        if why in UNKNOWN:
            continue
        body = federated_run(f"bad-{number:02}", spec)
        # Not applied: that would put all of the object into an annotation.
        done = cluster.try_kubectl("create", "-f", "-", stdin=json.dumps(body))
        if done.returncode:
            refused[why] = done.stderr
        else:
            accepted[why] = body["metadata"]["name"]
    assert len(refused) + len(accepted) >= 30
    for why, words in refused.items():
        assert "spec" in words, f"{why}: {words}"

    def seen() -> dict[str, dict[str, Any]] | None:
        runs = {each["metadata"]["name"]: each for each in cluster.get("federatedruns")}
        mine = {why: runs[name].get("status", {}) for why, name in accepted.items()}
        return mine if all(each.get("state") == "Failed" for each in mine.values()) else None

    for why, status in cluster.until(seen, "conditions").items():
        (complete,) = [each for each in status["conditions"] if each["type"] == "Complete"]
        assert complete["reason"] == "InvalidSpec", why
        assert complete["message"].startswith("spec"), why
    for name in accepted.values():
        assert not cluster.left_of(name), "nothing was made of it"
    cluster.kubectl("delete", "federatedrun", *accepted.values())
    print(f"{len(refused)} refused at admission, {len(accepted)} told by their condition")


@pytest.mark.parametrize("why", UNKNOWN)
def test_a_field_that_nobody_knows_reaches_nobody(cluster: Cluster, why: str) -> None:
    body = federated_run("unknown", {**BAD[why], "suspend": True})
    done = cluster.try_kubectl("create", "-f", "-", stdin=json.dumps(body))
    if done.returncode:
        assert UNKNOWN[why] in done.stderr
        return
    stored = cluster.kubectl("get", "federatedrun", "unknown", "-o", "json")
    assert f'"{UNKNOWN[why]}":' not in stored
    cluster.kubectl("delete", "federatedrun", "unknown")

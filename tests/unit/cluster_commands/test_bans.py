"""``fedkube ban``."""

from __future__ import annotations

import pytest
from cluster_commands import a_run, condition
from fake_kubernetes import status

from fedkube.cli.cluster import lifecycle


def of_sites(*banned: str, **status):
    run = a_run(**status)
    run["spec"] = {"sites": [{"name": name} for name in ("north", "south", "east")]}
    if banned:
        run["spec"]["banned"] = [*banned]
    return run


def the_run(kubernetes):
    (run,) = kubernetes.of("federatedruns")
    return run


def coordinate(kubernetes):
    """Have the change told by the condition, as by a coordinator, when it is looked at again."""
    changed = []

    def look(method, path):
        if method == "PATCH":
            changed.append(path)
        elif changed and method == "GET":
            banned = the_run(kubernetes)["spec"].get("banned")
            told = ("True", "SitesBanned") if banned else ("False", "NobodyBanned")
            status = the_run(kubernetes)["status"]
            status["conditions"] = [condition("Banned", *told, "")]
            kubernetes.change("federatedruns", "digits", status=status)

    kubernetes.refusals.append(look)


@pytest.mark.parametrize(
    ("before", "words", "after"),
    [
        ((), ("south",), ["south"]),
        (("south",), ("north", "south", "north"), ["north", "south"]),
        (("north", "south"), ("south", "--lift"), ["north"]),
        (("south",), ("south", "east", "--lift"), []),
    ],
)
def test_a_site_is_banned_and_may_take_part_again(kubernetes, fedkube, before, words, after):
    coordinate(kubernetes)
    kubernetes.put("federatedruns", of_sites(*before, observedGeneration=1))
    done = fedkube("ban", "digits", *words)
    assert done.code == 0, done.err
    assert the_run(kubernetes)["spec"]["banned"] == after
    assert "and its server knows" in done.err
    assert ("may take part" if "--lift" in words else "banned from run digits") in done.err


def test_of_a_run_that_has_not_begun_no_server_need_hear_of_it(kubernetes, fedkube):
    kubernetes.put("federatedruns", of_sites(state="Queued", startedAt=None))
    done = fedkube("ban", "digits", "east")
    assert (done.code, "which has not begun" in done.err) == (0, True)


@pytest.mark.parametrize(
    "said",
    [
        {"observedGeneration": 0},
        {"observedGeneration": 1},
        {
            "observedGeneration": 1,
            "conditions": [condition("Banned", "False", "BeingTold", "the server is being told")],
        },
    ],
    ids=["no coordinator", "an older coordinator", "no server"],
)
def test_a_server_that_does_not_hear_of_it(kubernetes, fedkube, said, monkeypatch):
    monkeypatch.setattr(lifecycle, "_HEARS_S", 0.0)
    monkeypatch.setattr(lifecycle, "_LOOK_S", 0.01)
    kubernetes.put("federatedruns", of_sites(**said))
    done = fedkube("ban", "digits", "east")
    assert done.code == 5
    assert "its server has not heard of it" in done.err
    assert the_run(kubernetes)["spec"]["banned"] == ["east"], "it is told until it has"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (of_sites(), "has no site 'west'"),
        (a_run(), "has a pool, and only sites"),
        (of_sites(state="Succeeded"), "nobody takes part in it any more"),
    ],
)
def test_what_cannot_be_banned(kubernetes, fedkube, run, words):
    kubernetes.put("federatedruns", run)
    done = fedkube("ban", "digits", "west")
    assert done.code == 2
    assert words in done.err
    assert "banned" not in the_run(kubernetes)["spec"]


def test_what_others_ban_meanwhile_stays_banned(kubernetes, fedkube):
    """The object is read, and another changes it before it is written."""
    coordinate(kubernetes)
    kubernetes.put("federatedruns", of_sites(observedGeneration=1))
    others = ["north"]

    def meddle(method, path):
        if method == "PATCH" and others:
            spec = the_run(kubernetes)["spec"] | {"banned": [others.pop()]}
            kubernetes.change("federatedruns", "digits", spec=spec)

    kubernetes.refusals.append(meddle)
    assert fedkube("ban", "digits", "east").code == 0
    assert the_run(kubernetes)["spec"]["banned"] == ["north", "east"]


def test_a_run_that_others_change_all_the_time(kubernetes, fedkube):
    kubernetes.put("federatedruns", of_sites())

    def refuse(method, path):
        return (409, status(409, "the object has been modified")) if method == "PATCH" else None

    kubernetes.refusals.append(refuse)
    done = fedkube("ban", "digits", "east")
    assert (done.code, "is being changed by others" in done.err) == (5, True)


def test_an_older_definition_of_runs_drops_it(kubernetes, fedkube):
    """The API server prunes what the definition does not have, and says nothing."""
    kubernetes.put("federatedruns", of_sites(observedGeneration=1))

    def prune(method, path):
        spec = the_run(kubernetes)["spec"]
        if method == "GET" and spec.pop("banned", None):
            kubernetes.change("federatedruns", "digits", spec=spec)

    kubernetes.refusals.append(prune)
    done = fedkube("ban", "digits", "east")
    assert (done.code, "knows of no bans" in done.err) == (5, True)

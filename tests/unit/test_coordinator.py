"""What the coordinator decides, and what it creates; no cluster is needed for either."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from bad_objects import BAD, UNKNOWN
from cryptography import x509

from fedkube.api import crd
from fedkube.api.v1alpha1 import FederatedRunSpec, FederatedRunStatus, State
from fedkube.coordinator import declared, objects, plan, reconciler, troubles
from fedkube.coordinator.objects import Defaults, Run
from fedkube.coordinator.plan import decide
from fedkube.coordinator.seen import Progress, Seen
from fedkube.store.run_folder import RunRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SITES = [
    {"name": "north", "data": {"claim": "north-data"}, "nodeConfig": {"path": "/data"}},
    {"name": "south", "data": {"claim": "south-data", "mountPath": "/mnt", "readOnly": False}},
]
DEFAULTS = Defaults("fedkube-client:1")


def a_run(**spec: Any) -> Run:
    pool = {} if "sites" in spec else {"pool": {"clients": 10, "workers": 4}}
    found = FederatedRunSpec.model_validate(pool | spec)
    return Run("digits", "ml", "0f8fad5b-d9cb-469f-a165-70867728950e", 3, found)


def a_job(name: str = "digits-workers", **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": f"{NOW:%Y-%m-%dT%H:%M:%SZ}"}
    return {"metadata": metadata, "spec": {"parallelism": 4}, "status": status}


def a_pod(role: str, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"fedkube.io/role": role}},
        "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 2}}}]},
        "status": status,
    }


READY = a_pod(
    "server", phase="Running", conditions=[{"type": "Ready", "status": "True", "reason": ""}]
)


def started(seconds: int = 10) -> FederatedRunStatus:
    return FederatedRunStatus(state=State.PENDING, started_at=NOW - timedelta(seconds=seconds))


def said(status: FederatedRunStatus, kind: str) -> tuple[str, str, str]:
    each = next(each for each in status.conditions if each.type == kind)
    return each.status, each.reason, each.message


# ---------------------------------------------------------------- decisions


def test_a_new_run_is_started_when_there_is_room() -> None:
    decision = decide(a_run(), FederatedRunStatus(), Seen(), True, NOW)
    assert decision.ensure
    assert (decision.status.state, decision.status.started_at) == (State.PENDING, NOW)
    assert decision.status.observed_generation == 3


def test_without_room_it_waits_in_turn() -> None:
    decision = decide(a_run(), FederatedRunStatus(), Seen(), False, NOW)
    assert not decision.ensure
    assert decision.status.state is State.QUEUED
    assert said(decision.status, "Ready")[1] == "Queued"


def test_a_suspended_run_is_not_started() -> None:
    decision = decide(a_run(suspend=True), FederatedRunStatus(), Seen(), True, NOW)
    assert not decision.ensure
    assert decision.status.state is State.SUSPENDED


def test_suspending_takes_the_workers_away_and_leaves_the_server() -> None:
    seen = Seen(server=a_job(), workers={"digits-workers": a_job()}, pods=[READY])
    decision = decide(a_run(suspend=True), started(), seen, True, NOW)
    assert (decision.scale, decision.dismiss_server) == ({"digits-workers": 0}, False)
    assert decision.status.state is State.SUSPENDED
    seen.workers["digits-workers"]["spec"]["parallelism"] = 0
    assert decide(a_run(), started(), seen, True, NOW).scale == {"digits-workers": 4}


def test_there_are_never_more_workers_than_clients() -> None:
    seen = Seen(server=a_job(), workers={"digits-workers": a_job()})
    run = a_run(pool={"clients": 2, "workers": 50})
    assert decide(run, started(), seen, True, NOW).scale == {"digits-workers": 2}


def test_a_run_that_trains_says_how_far_it_is() -> None:
    progress = Progress(3, 10, 4, 100, 200, 59.6, {"accuracy": 0.5})
    seen = Seen(
        server=a_job(),
        workers={"digits-workers": a_job()},
        pods=[READY, a_pod("worker", phase="Running")],
        progress=progress,
    )
    status = decide(a_run(), started(), seen, True, NOW).status
    assert status.state is State.RUNNING
    assert (status.round_of, status.eta, status.workers) == ("3/10", "60s", 4)
    assert (status.gpus, status.metrics) == (4, {"accuracy": "0.5"})
    assert said(status, "Ready")[:2] == ("True", "Running")


WORDS = {"state": "Succeeded", "reason": "Completed", "message": "it returned", "rounds": 7}


def test_the_servers_last_words_end_the_run() -> None:
    seen = Seen(server=a_job(), workers={"digits-workers": a_job()}, words=WORDS | {"sha256": "ab"})
    decision = decide(a_run(), started(), seen, True, NOW)
    status = decision.status
    assert (status.state, status.round_of, status.ended_at) == (State.SUCCEEDED, "7/7", NOW)
    assert status.model is not None
    assert (status.model.claim, status.model.path) == (
        "digits-run",
        "digits-0f8fad5b/model.safetensors",
    )
    assert said(status, "Complete") == ("True", "Completed", "it returned")
    assert decision.dismiss_workers
    assert not decision.dismiss_server, "its log is still of use"
    after = decide(a_run(), status, seen, True, NOW)
    assert (after.ensure, after.dismiss_server, after.delete_run) == (False, False, False)
    assert after.status == status, "nothing more happens to a run that has ended"


def test_an_app_that_raised_is_told_with_its_traceback() -> None:
    words = {"state": "Failed", "reason": "ServerAppRaised", "message": "m", "details": "line 3"}
    status = decide(a_run(), started(), Seen(server=a_job(), words=words), True, NOW).status
    assert said(status, "Complete") == ("False", "ServerAppRaised", "m\nline 3")


def test_a_server_that_does_not_last_fails_the_run() -> None:
    failed = a_job(conditions=[{"type": "Failed", "status": "True", "message": "limit reached"}])
    ended = {"reason": "OOMKilled", "exitCode": 137, "message": "no more"}
    pods = [a_pod("server", containerStatuses=[{"state": {"terminated": ended}}])]
    status = decide(a_run(), started(), Seen(server=failed, pods=pods), True, NOW).status
    assert status.state is State.FAILED
    assert "limit reached; OOMKilled, exit code 137: no more" in said(status, "Complete")[2]


def test_the_deadline_ends_the_run() -> None:
    run, seen = (
        a_run(activeDeadlineSeconds=60),
        Seen(server=a_job(active=4), workers={"digits-workers": a_job(active=4)}),
    )
    assert decide(run, started(50), seen, True, NOW).again_s == 10
    decision = decide(run, started(60), seen, True, NOW)
    assert (decision.status.state, decision.dismiss_server) == (State.FAILED, True)
    assert said(decision.status, "Complete")[1] == "DeadlineExceeded"


def test_a_run_is_deleted_when_its_time_after_the_end_is_up() -> None:
    run = a_run(ttlSecondsAfterFinished=100)
    ended = FederatedRunStatus(state=State.SUCCEEDED, ended_at=NOW - timedelta(seconds=99))
    early = decide(run, ended, Seen(), True, NOW)
    assert (early.delete_run, early.again_s) == (False, 1)
    assert decide(run, ended, Seen(), True, NOW + timedelta(seconds=1)).delete_run


def waiting(reason: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": "words"}}
    return a_pod("worker", containerStatuses=[{"image": "nope:1", "state": state}])


def unschedulable(words: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return a_pod("worker", conditions=[condition | {"message": words}])


def test_workers_whose_job_has_failed_are_told_of() -> None:
    failed = a_job(conditions=[{"type": "Failed", "status": "True", "message": "limit reached"}])
    seen = Seen(server=a_job(), workers={"digits-workers": failed}, pods=[READY])
    found = said(decide(a_run(), started(), seen, True, NOW).status, "Ready")
    assert found == ("False", "WorkersGaveUp", "the Job digits-workers has failed: limit reached")


QUOTA = 'Error creating: pods "x" is forbidden: exceeded quota: q, used: pods=4, limited: pods=4'
STANDARD = 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest"'


@pytest.mark.parametrize(
    ("words", "reason"), [(QUOTA, "QuotaUsedUp"), (STANDARD, "PodsForbidden")], ids=["quota", "psa"]
)
def test_why_there_are_no_pods_is_told(words: str, reason: str) -> None:
    later = NOW + timedelta(seconds=10)
    seen = Seen(server=a_job("digits-server", active=4), workers={"digits-workers": a_job()})
    assert list(troubles.without_pods(seen, NOW)) == []
    assert list(troubles.without_pods(seen, later)) == ["digits-workers"]
    told = Seen(seen.server, seen.workers, {"digits-workers": words}, [READY])
    decision = decide(a_run(), started(), told, True, later)
    status, why, message = said(decision.status, "Ready")
    assert (status, why) == ("False", reason)
    assert words in message
    assert decision.again_s is not None, "nothing tells when it gets better"


def test_sites_that_are_not_there_are_named() -> None:
    jobs = {f"digits-site-{name}": a_job(active=4) for name in ("north", "south")}
    progress = Progress(0, 3, 1, absent=["south"])
    seen = Seen(a_job("digits-server", active=4), jobs, pods=[READY], progress=progress)
    status = decide(a_run(sites=SITES), started(), seen, True, NOW).status
    assert said(status, "Ready")[:2] == ("False", "WaitingForSites")
    assert "south" in said(status, "Ready")[2]
    assert status.clients == 2


def test_the_pod_of_a_site_that_is_banned_goes_and_comes_back_when_the_ban_is_lifted() -> None:
    jobs = {f"digits-site-{name}": a_job(active=1) for name in ("north", "south")}
    for job in jobs.values():
        job["spec"]["parallelism"] = 1
    server = a_job("digits-server", active=4)
    run, lifted = a_run(sites=SITES, banned=["south"]), a_run(sites=SITES)
    told = decide(run, started(), Seen(server, jobs, pods=[READY]), True, NOW)
    assert told.scale == {"digits-site-south": 0}
    assert said(told.status, "Banned") == (
        "False",
        "BeingTold",
        "the server is being told that it is to leave out south",
    )
    jobs["digits-site-south"]["spec"]["parallelism"] = 0
    seen = Seen(server, jobs, pods=[READY], progress=Progress(1, 3, 1, banned=["south"]))
    heard = decide(run, told.status, seen, True, NOW)
    assert heard.scale == {}
    assert said(heard.status, "Banned") == ("True", "SitesBanned", "left out: south")
    assert heard.status.desired_workers == 1
    again = decide(lifted, heard.status, seen, True, NOW)
    assert again.scale == {"digits-site-south": 1}
    assert said(again.status, "Banned")[:2] == ("False", "BeingTold")
    silent = Seen(server, jobs, pods=[READY], progress=Progress(1, 3, 2))
    unheard = decide(lifted, again.status, silent, True, NOW).status
    assert said(unheard, "Banned")[:2] == ("False", "BeingTold"), "it has not said who is banned"
    seen = Seen(server, jobs, pods=[READY], progress=Progress(1, 3, 2, banned=()))
    everybody = decide(lifted, again.status, seen, True, NOW).status
    assert said(everybody, "Banned")[:2] == ("False", "NobodyBanned")


def test_of_a_run_in_which_nobody_is_banned_nothing_is_said() -> None:
    status = decide(a_run(sites=SITES), started(), Seen(), True, NOW).status
    assert not [each for each in status.conditions if each.type == "Banned"]


def test_a_server_begins_with_what_is_banned() -> None:
    orders = objects.orders(a_run(sites=SITES, banned=["north"]))
    assert RunRecord.model_validate_json(orders["data"]["run.json"]).banned == ["north"]


def test_suspending_takes_the_pod_of_every_site_away() -> None:
    jobs = {f"digits-site-{name}": a_job() for name in ("north", "south")}
    for job in jobs.values():
        job["spec"]["parallelism"] = 1
    decision = decide(a_run(sites=SITES, suspend=True), started(), Seen(a_job(), jobs), True, NOW)
    assert decision.scale == {"digits-site-north": 0, "digits-site-south": 0}


def test_the_servers_disruption_budget_is_one_that_a_job_can_have() -> None:
    budget = objects.disruption_budget(a_run(), "policy/v1")
    assert budget["spec"]["minAvailable"] == 1
    assert "maxUnavailable" not in budget["spec"]


TROUBLES = [
    (waiting("ErrImagePull"), "ImageCannotBePulled", "correct spec.app.image"),
    (waiting("ImagePullBackOff"), "ImageCannotBePulled", "nope:1"),
    (waiting("CreateContainerConfigError"), "PodCannotStart", "words"),
    (unschedulable("0/1 nodes: Insufficient nvidia.com/gpu"), "NoNodeFits", "2 nvidia.com/gpu"),
    (unschedulable('persistentvolumeclaim "x" not found'), "NoNodeFits", "disk is not there"),
]


@pytest.mark.parametrize(("pod", "reason", "words"), TROUBLES, ids=[each[2] for each in TROUBLES])
def test_what_keeps_pods_from_running_is_told(pod: dict[str, Any], reason: str, words: str) -> None:
    seen = Seen(server=a_job(), workers={"digits-workers": a_job()}, pods=[pod])
    found = said(decide(a_run(), started(), seen, True, NOW).status, "Ready")
    assert found[:2] == ("False", reason)
    assert words in found[2]


def test_a_disk_that_is_being_made_is_no_trouble_yet() -> None:
    pod = unschedulable("0/1 nodes: 1 pod has unbound immediate PersistentVolumeClaims.")
    pod["metadata"]["creationTimestamp"] = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
    pod["status"]["phase"] = "Pending"
    seen = Seen(a_job(active=4), {"digits-workers": a_job(active=4)}, pods=[pod])
    first = decide(a_run(), started(), seen, True, NOW + timedelta(seconds=5))
    assert said(first.status, "Ready")[1] == "Starting"
    assert first.again_s is not None
    later = decide(a_run(), started(), seen, True, NOW + timedelta(seconds=20))
    assert said(later.status, "Ready")[1] == "NoNodeFits"


def test_a_condition_keeps_its_time_while_it_says_the_same() -> None:
    first = decide(a_run(), FederatedRunStatus(), Seen(), True, NOW).status
    later = NOW + timedelta(minutes=1)
    second = decide(
        a_run(), first, Seen(server=a_job(), workers={"digits-workers": a_job()}), True, later
    ).status
    assert second.conditions[0].last_transition_time == NOW


# ---------------------------------------------------------------- objects that will not do


@pytest.mark.parametrize("why", [why for why in BAD if why not in UNKNOWN])
def test_an_object_that_will_not_do_is_told_what_is_wrong(why: str) -> None:
    spec = BAD[why]
    metadata = {"name": "r", "namespace": "ml", "uid": "u", "generation": 1}
    with pytest.raises(ValueError, match=r"^spec[.:]") as error:
        declared.read({"metadata": metadata, "spec": spec})
    status = plan.invalid(FederatedRunStatus(), 1, str(error.value), NOW)
    assert said(status, "Complete")[1] == "InvalidSpec"


@pytest.mark.parametrize("why", UNKNOWN)
def test_what_a_newer_definition_has_brought_in_ends_no_run(why: str) -> None:
    metadata = {"name": "r", "namespace": "ml", "uid": "0f8fad5b-1", "generation": 1}
    run = declared.read({"metadata": metadata, "spec": BAD[why]})
    assert run.spec == FederatedRunSpec.model_validate({"pool": {"clients": 2}})
    with pytest.raises(ValueError, match=UNKNOWN[why]):
        FederatedRunSpec.model_validate(BAD[why])


@pytest.mark.parametrize("name", ["a" * 41, "a.b"])
def test_a_name_of_which_no_parts_can_be_named_is_refused(name: str) -> None:
    metadata = {"name": name, "namespace": "ml", "uid": "u", "generation": 1}
    with pytest.raises(ValueError, match="name"):
        declared.read({"metadata": metadata, "spec": {"pool": {"clients": 2}}})


# ---------------------------------------------------------------- what is created


def worker_job(run: Run) -> dict[str, Any]:
    (job,) = objects.worker_jobs(run, DEFAULTS)
    return job


def test_a_worker_pod_that_serves_several_clients() -> None:
    pool = {"clients": 8, "pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    (alone,) = worker_job(a_run(pool=pool))["spec"]["template"]["spec"]["containers"]
    (several,) = worker_job(a_run(pool=pool | {"clientsPerAccelerator": 4}))["spec"]["template"][
        "spec"
    ]["containers"]
    assert alone["command"][:4] == ["python3", "-m", "fedkube_client", "--server"]
    module = ["python3", "-m", "fedkube_client.crew", "--workers", "4", "--server"]
    assert several["command"][:6] == module
    assert several["command"][6:] == alone["command"][4:]
    assert several["resources"] == alone["resources"]


def test_a_worker_pod_that_serves_as_many_clients_as_fit() -> None:
    pool = {
        "clients": 8,
        "clientsPerAccelerator": "auto",
        "pod": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
    }
    run = a_run(pool=pool)
    (container,) = worker_job(run)["spec"]["template"]["spec"]["containers"]
    module = ["python3", "-m", "fedkube_client.crew", "--workers", "8", "--as-fit", "--server"]
    assert container["command"][:7] == module
    assert run.parallelism == {"digits-workers": 8}, "nobody knows yet that fewer do"


def test_a_worker_pod_that_claims_devices() -> None:
    run = a_run(pool={"clients": 8, "pod": {"devices": {"gpu.nvidia.com": 2}}})
    template = worker_job(run)["spec"]["template"]
    claim = {"name": "fedkube-devices"}
    assert template["spec"]["resourceClaims"] == [
        claim | {"resourceClaimTemplateName": "digits-workers-devices"}
    ]
    assert template["spec"]["containers"][0]["resources"]["claims"] == [claim]
    pod = {**template, "status": {"phase": "Running"}}
    status = decide(run, started(), Seen(a_job(), pods=[READY, pod, pod]), True, NOW).status
    assert status.gpus == 2 + 2 + 2, "one of the server's in this test, by a device plugin"
    assert run.spec.pool is not None
    assert run.spec.pool.elastic
    assert "resourceClaims" not in worker_job(a_run())["spec"]["template"]["spec"]


def everything(run: Run) -> list[dict[str, Any]]:
    return [
        objects.certificates(run, NOW),
        objects.orders(run),
        objects.claim(run),
        objects.service(run),
        *objects.policies(run, DEFAULTS),
        objects.disruption_budget(run, "policy/v1"),
        objects.server_job(run, DEFAULTS),
        *objects.worker_jobs(run, DEFAULTS),
        *objects.device_templates(run, "v1"),
    ]


def test_all_of_a_run_goes_with_it() -> None:
    for each in everything(a_run(server={"pod": {"devices": {"gpu.nvidia.com": 1}}})):
        (owner,) = each["metadata"]["ownerReferences"]
        assert owner["uid"] == a_run().uid


def test_a_disk_that_is_to_be_kept_is_nobodys() -> None:
    claim = objects.claim(a_run(server={"storage": {"keep": True}}))
    assert "ownerReferences" not in claim["metadata"]


def test_building_twice_gives_the_same_but_for_the_keys() -> None:
    first, second = everything(a_run())[1:], everything(a_run())[1:]
    assert first == second


def test_pods_fit_the_restricted_standard_and_have_no_token() -> None:
    for job in (objects.server_job(a_run(), DEFAULTS), *objects.worker_jobs(a_run(), DEFAULTS)):
        spec = job["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_each_pod_is_shown_its_own_key_alone() -> None:
    secret = objects.certificates(a_run(), NOW)
    for role, job in (
        ("server", objects.server_job(a_run(), DEFAULTS)),
        ("worker", worker_job(a_run())),
    ):
        volumes = job["spec"]["template"]["spec"]["volumes"]
        (tls,) = [each["secret"] for each in volumes if each["name"] == "fedkube-tls"]
        keys = [item["key"] for item in tls["items"]]
        assert keys == ["ca.pem", f"{role}.pem", f"{role}-key.pem"]
        assert set(keys) <= set(secret["data"])


def test_no_key_of_the_authority_is_in_the_secret() -> None:
    secret = objects.certificates(a_run(), NOW)
    keys = [
        name for name, value in secret["data"].items() if b"PRIVATE KEY" in base64.b64decode(value)
    ]
    assert sorted(keys) == ["operator-key.pem", "server-key.pem", "worker-key.pem"]


def test_a_bundle_is_unpacked_before_the_app_is_read() -> None:
    run = a_run(app={"bundle": {"configMap": "digits-app", "sha256": "a" * 64}})
    spec = worker_job(run)["spec"]["template"]["spec"]
    (init,) = spec["initContainers"]
    folder = init["command"][-1]
    command = spec["containers"][0]["command"]
    assert command[command.index("--app") + 1] == folder
    orders = RunRecord.model_validate_json(objects.orders(run)["data"]["run.json"], by_name=True)
    assert orders.spec.app == folder


def test_what_a_user_asks_of_pods_is_passed_on() -> None:
    pod = {
        "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "2Gi"}},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "gpu"}],
        "priorityClassName": "low",
        "env": [{"name": "A", "value": "1"}],
    }
    run = a_run(pool={"clients": 4, "workers": 2, "pod": pod})
    spec = worker_job(run)["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"zone": "a"}
    asked = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert spec["tolerations"] == [{"key": "gpu"}, asked], "that of GPU nodes is a usual one"
    assert spec["priorityClassName"] == "low"
    container = spec["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "2Gi"}
    assert {"name": "A", "value": "1"} in container["env"]


def test_the_network_is_closed_but_for_the_exchange() -> None:
    deny, server, workers = (each["spec"] for each in objects.policies(a_run(), DEFAULTS))
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert {port["port"] for rule in deny["egress"] for port in rule["ports"]} == {53}
    assert server["ingress"][0]["ports"] == [{"port": 8470, "protocol": "TCP"}]
    assert workers["egress"][0]["ports"] == [{"port": 8470, "protocol": "TCP"}]


def test_each_site_has_its_own_pod_key_and_data() -> None:
    run = a_run(sites=SITES)
    north, south = objects.worker_jobs(run, DEFAULTS)
    secret = objects.certificates(run, NOW)["data"]
    assert {"site-north-key.pem", "site-south-key.pem"} <= set(secret)
    assert "worker-key.pem" not in secret
    for job, site, other in ((north, "north", "south"), (south, "south", "north")):
        assert job["metadata"]["name"] == f"digits-site-{site}"
        assert job["spec"]["parallelism"] == 1
        spec = job["spec"]["template"]["spec"]
        shown = json.dumps(spec)
        assert f"site-{site}-key.pem" in shown
        assert f"{site}-data" in shown
        assert other not in shown
        command = spec["containers"][0]["command"]
        assert command[command.index("--name") + 1] == site, "two of a site cannot be there at once"
    container = north["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][-2:] == ["--node-config", '{"path": "/data"}']
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert mounts["/data"]["readOnly"] is True


def test_a_server_whose_journal_is_in_an_object_store_gets_there_and_nobody_else() -> None:
    run = a_run(server={"journal": "s3://bucket/journals"})
    orders = RunRecord.model_validate_json(objects.orders(run)["data"]["run.json"], by_name=True)
    assert orders.spec.server.journal == "s3://bucket/journals"
    (*_, keep) = objects.policies(run, DEFAULTS)
    assert keep["spec"]["egress"] == [{"ports": [{"port": 443, "protocol": "TCP"}]}]
    assert keep["spec"]["podSelector"]["matchLabels"]["fedkube.io/role"] == "server"
    assert len(objects.policies(a_run(server={"journal": "off"}), DEFAULTS)) == 3


def test_the_server_is_told_of_sites_cohort_and_compression() -> None:
    cohort = {"minimum": 2, "deadlineSeconds": 60}
    run = a_run(sites=SITES, cohort=cohort, compression="int8")
    orders = RunRecord.model_validate_json(objects.orders(run)["data"]["run.json"], by_name=True)
    assert orders.spec.sites == ["north", "south"]
    assert (orders.spec.pool.clients, orders.workers) == (2, 2)
    assert (orders.spec.cohort.minimum, orders.spec.cohort.deadline_seconds) == (2, 60)
    assert orders.spec.compression == "int8"


def test_a_bundle_behind_a_url_may_be_fetched_and_nothing_else() -> None:
    bundle = {"url": "https://apps.example.com:8443/a.zip", "sha256": "a" * 64}
    run = a_run(app={"bundle": bundle})
    (*_, fetch) = objects.policies(run, DEFAULTS)
    assert fetch["spec"]["egress"] == [{"ports": [{"port": 8443, "protocol": "TCP"}]}]
    (init,) = worker_job(run)["spec"]["template"]["spec"]["initContainers"]
    assert bundle["url"] in init["command"]
    assert len(objects.policies(a_run(), DEFAULTS)) == 3


def test_a_server_may_be_reached_from_outside_where_that_is_asked_for() -> None:
    exposure = {"type": "NodePort", "hosts": ["fl.example.com"], "annotations": {"a": "b"}}
    run = a_run(server={"exposure": exposure})
    service = objects.service(run)
    assert (service["spec"]["type"], service["metadata"]["annotations"]) == ("NodePort", {"a": "b"})
    server = objects.policies(run, DEFAULTS)[1]["spec"]
    assert "from" not in server["ingress"][0]
    pem = base64.b64decode(objects.certificates(run, NOW)["data"]["server.pem"])
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "fl.example.com" in names.value.get_values_for_type(x509.DNSName)
    assert "from" in objects.policies(a_run(), DEFAULTS)[1]["spec"]["ingress"][0]


# ---------------------------------------------------------------- the definition


def schemas(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return [node, *(found for value in node.values() for found in schemas(value))]
    return [found for value in node for found in schemas(value)] if isinstance(node, list) else []


def test_the_schema_is_structural() -> None:
    root = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for each in schemas(root):
        assert not {"$ref", "anyOf", "oneOf", "allOf", "title", "$defs"} & set(each)
    assert yaml.safe_load(yaml.safe_dump(root)) == root


def test_what_is_written_into_a_status_can_be_read_again() -> None:
    status = decide(a_run(), FederatedRunStatus(), Seen(), True, NOW).status
    written = {key: value for key, value in reconciler._dump(status).items() if value is not None}
    assert FederatedRunStatus.model_validate(json.loads(json.dumps(written))) == status

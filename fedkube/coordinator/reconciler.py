"""Brings each run, one after the other, from what is there to what it asks for.

Level-triggered: whatever has happened, a run is looked at as a whole. What is known of the cluster
comes from watches; everything that is done can be done twice without harm.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter, Gauge

from fedkube.api.v1alpha1 import FederatedRunStatus, State
from fedkube.coordinator import objects, plan
from fedkube.coordinator.cluster import Cluster
from fedkube.coordinator.declared import in_force
from fedkube.coordinator.elastic import Elastic
from fedkube.coordinator.objects import Defaults, Object, Run
from fedkube.coordinator.progress import Follower
from fedkube.coordinator.seen import Progress, Seen, is_ready, last_words, owner_of, role_of
from fedkube.coordinator.troubles import without_pods
from fedkube.planner.need import Need
from fedkube.planner.sharing import Share

log = logging.getLogger("fedkube.coordinator")

Key = tuple[str, str]

_RETRY_S = 5.0
_RECONCILED = Counter("fedkube_reconciliations_total", "Times that a run was looked at")
_FAILED = Counter("fedkube_reconciliation_failures_total", "Those that failed and are tried again")
_CALLS = Gauge("fedkube_api_calls", "Requests sent to the cluster's API so far")
_RUNS = Gauge("fedkube_runs", "Runs by state", ["state"])


class Reconciler:
    """Runs on one event loop.

    ``max_runs``: so many go on at once. ``elastic``: what the cluster has for workers; None: nobody
    knows, and pools have the workers that they ask for.
    """

    def __init__(
        self, cluster: Cluster, defaults: Defaults, max_runs: int, elastic: Elastic | None = None
    ) -> None:
        self._cluster = cluster
        self._defaults = defaults
        self._max_runs = max_runs
        self._elastic = elastic
        if elastic is not None:
            elastic.look_at = self.look_at
        self._runs: dict[Key, Object] = {}
        self._children: dict[Key, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._ensured: set[str] = set()  # uids of runs of which all objects were there
        self._followers: dict[str, Follower] = {}
        self._waiting: dict[Key, None] = {}  # a queue in which each run is once
        self._arrived = asyncio.Event()
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    # ------------------------------------------------------------- what happens

    def saw_run(self, body: Object, gone: bool) -> None:
        """A run is there, has changed, or is gone."""
        key = (body["metadata"]["namespace"], body["metadata"]["name"])
        if gone:
            self._forget(key, body["metadata"]["uid"])
        else:
            self._runs[key] = body
            self.look_at(key)

    def saw_child(self, kind: str, body: Object, gone: bool) -> None:
        """One of a run's objects is there, has changed, or is gone."""
        metadata = body["metadata"]
        run = metadata.get("labels", {}).get(objects.RUN_LABEL)
        key = (metadata["namespace"], run)
        children = self._children[key]
        if gone:
            children.pop((kind, metadata["name"]), None)
            if kind != "Pod" and key in self._runs:
                self._ensured.discard(self._runs[key]["metadata"]["uid"])
        else:
            children[kind, metadata["name"]] = body
        self.look_at(key)

    def look_at(self, key: Key) -> None:
        """Have a run looked at soon."""
        self._waiting[key] = None
        self._arrived.set()

    def _forget(self, key: Key, uid: str) -> None:
        self._runs.pop(key, None)
        self._ensured.discard(uid)
        if follower := self._followers.pop(uid, None):
            follower.stop()
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if self._elastic is not None:
            self._elastic.leave(key)
        self._wake_queued()

    def _wake_queued(self) -> None:
        for key in sorted(self._queued(), key=self._turn)[: self._max_runs]:
            self.look_at(key)

    # ------------------------------------------------------------- what is done

    async def run(self) -> None:
        """Look at runs as they come, for ever."""
        while True:
            await self._arrived.wait()
            while self._waiting:
                key = next(iter(self._waiting))
                del self._waiting[key]
                if key in self._runs:
                    await self._look(key)
            self._arrived.clear()

    async def _look(self, key: Key) -> None:
        _RECONCILED.inc()
        try:
            again_s = await self._reconcile(key, self._runs[key])
        except Exception:
            # Whatever it was (the API server restarts, a quota is used up), it is tried again.
            log.exception("run %s/%s", *key)
            _FAILED.inc()
            again_s = _RETRY_S
        _CALLS.set(self._cluster.calls)
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if again_s is not None:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(min(again_s, 3600.0), self.look_at, key)

    async def _reconcile(self, key: Key, body: Object) -> float | None:
        metadata = body["metadata"]
        if metadata.get("deletionTimestamp"):
            return None
        now = datetime.now(UTC).replace(microsecond=0)
        before = FederatedRunStatus.model_validate(body.get("status", {}))
        try:
            run, deviation = in_force(body, self._begun(key, metadata["uid"]))
            version = await self._devices_version(run)
        except ValueError as error:
            if before.state.final and before.observed_generation == metadata["generation"]:
                return None
            status = plan.invalid(before, metadata["generation"], str(error), now)
            await self._write(body, before, status)
            return None
        if run.queue and not await asyncio.to_thread(lambda: self._cluster.has_kueue):
            run = replace(run, queue="")  # a label alone makes no queue
        if before.state is State.FAILED and _was_invalid(before):
            if before.observed_generation == run.generation:
                return None
            before = FederatedRunStatus()
        seen = await self._with_complaints(run, self._seen(key, run), now)
        may_start = self._has_room(key)
        share = self._share(key, run, before, seen, may_start)
        decision = plan.decide(run, before, seen, may_start, now, share)
        plan.say_what_is_in_force(decision.status, deviation, now)
        await self._act(run, decision, seen, version)
        await self._write(body, before, decision.status)
        return decision.again_s

    async def _devices_version(self, run: Run) -> str:
        """Of the cluster's API for devices, if the run claims any; ValueError if there is none."""
        if not run.devices:
            return ""
        version = await asyncio.to_thread(lambda: self._cluster.devices_version)
        if not version:
            raise ValueError(
                "spec: it asks for devices by their class, and this cluster has no resource.k8s.io"
            )
        return version

    def _share(
        self, key: Key, run: Run, before: FederatedRunStatus, seen: Seen, may_start: bool
    ) -> Share | None:
        """The workers that an elastic pool has; None: as many as it asks for."""
        pool = run.spec.pool
        if self._elastic is None or pool is None or not pool.elastic or run.queue:
            return None
        begun = seen.server is not None or before.started_at is not None
        over = before.state.final or seen.words is not None
        if over or run.spec.suspend or not (begun or may_start):
            self._elastic.leave(key)
            return None
        follower = self._followers.get(run.uid)
        has = sum(job["spec"].get("parallelism", 0) for job in seen.workers.values())
        return self._elastic.want(key, run, follower.need if follower else Need(), has)

    async def _act(self, run: Run, decision: plan.Decision, seen: Seen, version: str) -> None:
        space = run.namespace
        if decision.ensure and run.uid not in self._ensured:
            await self._do(self._create_all, run, decision.parallelism, version)
            self._ensured.add(run.uid)
        for job, parallelism in decision.scale.items():
            change = {"spec": {"parallelism": parallelism}}
            await self._do(self._cluster.patch, "Job", space, job, change)
        if decision.dismiss_workers:
            for job in run.parallelism:
                await self._do(self._cluster.delete, "Job", space, job)
        if decision.dismiss_server:
            await self._do(self._cluster.delete, "Job", space, run.child("server"))
        if decision.delete_run:
            await self._do(self._cluster.delete, "FederatedRun", space, run.name)
        serving = any(is_ready(pod) for pod in seen.pods if role_of(pod) == "server")
        if decision.status.state.final:
            if follower := self._followers.pop(run.uid, None):
                follower.stop()
        elif serving and run.uid not in self._followers:
            credentials = await self._do(self._cluster.credentials, run.namespace, run.child("tls"))
            if credentials is not None:
                address = f"{run.server_host}:{objects.PORT}"
                key = (run.namespace, run.name)
                self._followers[run.uid] = Follower(address, credentials, lambda: self.look_at(key))
        if follower := self._followers.get(run.uid):
            follower.ban(run.spec.banned)

    def _create_all(self, run: Run, parallelism: Mapping[str, int], version: str) -> None:
        made = [
            objects.certificates(run, datetime.now(UTC)),
            objects.orders(run),
            objects.claim(run),
            objects.service(run),
            *objects.policies(run, self._defaults),
            objects.disruption_budget(run, self._cluster.policy),
            *objects.device_templates(run, version),
            objects.server_job(run, self._defaults),
        ]
        for job in objects.worker_jobs(run, self._defaults):
            job["spec"]["parallelism"] = parallelism[job["metadata"]["name"]]
            made.append(objects.queued(job, run.queue) if run.queue else job)
        for each in made:
            self._cluster.create(each)

    async def _write(
        self, body: Object, before: FederatedRunStatus, status: FederatedRunStatus
    ) -> None:
        old, new = _dump(before), _dump(status)
        if old == new and body.get("status"):
            return
        metadata = body["metadata"]
        await self._do(
            self._cluster.patch,
            "FederatedRun",
            metadata["namespace"],
            metadata["name"],
            {"status": new},
            "status",
        )
        # The next look must not wait for the watch to bring this back; nor go by what the watch has
        # brought meanwhile, which is of before.
        body["status"] = {name: value for name, value in new.items() if value is not None}
        current = self._runs.get((metadata["namespace"], metadata["name"]))
        if current is not None and current["metadata"]["uid"] == metadata["uid"]:
            current["status"] = body["status"]
        await self._announce(body, before, status)
        for state in State:
            count = sum(
                each.get("status", {}).get("state") == state for each in self._runs.values()
            )
            _RUNS.labels(str(state)).set(count)

    async def _announce(
        self, body: Object, before: FederatedRunStatus, status: FederatedRunStatus
    ) -> None:
        told = {(each.type, each.reason) for each in before.conditions}
        for each in status.conditions:
            if (each.type, each.reason) not in told and each.reason != "Ended":
                bad = status.state is State.FAILED or each.reason in _WARNINGS
                event = objects.event(body, bad, each.reason, each.message, datetime.now(UTC))
                await self._do(self._cluster.create, event)
        if status.state.final and not before.state.final:
            self._wake_queued()

    async def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(call, *arguments)

    # ------------------------------------------------------------- what is known

    def _has_room(self, key: Key) -> bool:
        """Whether a run may begin now: so few go on, and those that are older go first."""
        going = sum(
            other != key and _goes_on(body.get("status", {})) for other, body in self._runs.items()
        )
        mine = self._turn(key)
        ahead = sum(self._turn(other) < mine for other in self._queued() if other != key)
        return going + ahead < self._max_runs

    def _queued(self) -> list[Key]:
        return [key for key, body in self._runs.items() if _waits(body)]

    def _turn(self, key: Key) -> tuple[str, Key]:
        return self._runs[key]["metadata"]["creationTimestamp"], key

    def _begun(self, key: Key, uid: str) -> str | None:
        """The spec that the run was begun with, where it has a server."""
        job = self._children[key].get(("Job", f"{key[1]}-server"))
        if job is None or owner_of(job) != uid:
            return None
        spec: str | None = job["metadata"].get("annotations", {}).get(objects.SPEC_ANNOTATION)
        return spec

    def _seen(self, key: Key, run: Run) -> Seen:
        children = self._children[key]
        # What is left of an earlier run of the same name is not this one's: neither its objects,
        # nor the pods of its Jobs.
        mine = {
            where: each
            for where, each in children.items()
            if where[0] != "Pod" and owner_of(each) in (run.uid, None)
        }
        jobs = {each["metadata"]["uid"] for (kind, _), each in mine.items() if kind == "Job"}
        pods = [
            each
            for (kind, _), each in sorted(children.items(), key=lambda item: item[0])
            if kind == "Pod" and owner_of(each) in jobs
        ]
        follower = self._followers.get(run.uid)
        return Seen(
            server=mine.get(("Job", run.child("server"))),
            workers={name: mine["Job", name] for name in run.parallelism if ("Job", name) in mine},
            pods=pods,
            words=last_words(pods),
            progress=follower.progress if follower else Progress(),
        )

    async def _with_complaints(self, run: Run, seen: Seen, now: datetime) -> Seen:
        """With the reasons why Jobs have no pods: only their Events tell."""
        complaints = {}
        for name, job in without_pods(seen, now).items():
            about = f"involvedObject.uid={job['metadata']['uid']},reason=FailedCreate"
            events = await self._do(self._cluster.list, "Event", run.namespace, "", about)
            if events:
                newest = max(events, key=lambda event: event.get("lastTimestamp") or "")
                complaints[name] = str(newest.get("message", ""))
        return replace(seen, complaints=complaints)


_WARNINGS = {
    "ImageCannotBePulled", "NoNodeFits", "PodCannotStart", "PodCrashes", "WorkersGaveUp",
    "InvalidSpec", "QuotaUsedUp", "PodsForbidden", "WaitingForSites", "NotInForce", "NoWorkers",
}  # fmt: skip


def _was_invalid(status: FederatedRunStatus) -> bool:
    return any(each.reason == "InvalidSpec" for each in status.conditions)


def _goes_on(status: Mapping[str, Any]) -> bool:
    return status.get("state") in (State.PENDING, State.RUNNING)


def _waits(body: Object) -> bool:
    """Whether a run would begin if there were room."""
    queued = body.get("status", {}).get("state", State.QUEUED) == State.QUEUED
    dismissed = body["spec"].get("suspend") or body["metadata"].get("deletionTimestamp")
    return queued and not dismissed


def _dump(status: FederatedRunStatus) -> dict[str, Any]:
    """As it is written; a merge takes null for "delete it", which is right for what is empty."""
    found: dict[str, Any] = json.loads(status.model_dump_json(by_alias=True))
    return {name: None if value == "" else value for name, value in found.items()}

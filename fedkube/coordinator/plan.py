"""What to do about a run, from what it asks for and what is there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fedkube.api.v1alpha1 import FederatedRunStatus, State
from fedkube.api.v1alpha1.federated_run import BEING_TOLD, Condition, ModelStatus
from fedkube.coordinator.objects import Run
from fedkube.coordinator.seen import (
    Seen,
    accelerators,
    condition,
    finished,
    is_ready,
    phase,
    role_of,
)
from fedkube.coordinator.troubles import begins, last_crash, trouble_of
from fedkube.planner.sharing import Share

# While something is missing or late: nothing tells when it comes.
_AGAIN_S = 5.0


@dataclass(slots=True)
class Decision:
    """What to do, and what to say. ``again_s``: look again then, whatever happens; None: no need.

    ``ensure``: all of the run's objects are to be there. ``parallelism``: how many pods each of its
    worker Jobs is to have. ``scale``: the same for those Jobs that have another number now.
    """

    status: FederatedRunStatus
    ensure: bool = False
    parallelism: dict[str, int] = field(default_factory=dict)
    scale: dict[str, int] = field(default_factory=dict)
    dismiss_workers: bool = False
    dismiss_server: bool = False
    delete_run: bool = False
    again_s: float | None = None


def decide(
    run: Run,
    before: FederatedRunStatus,
    seen: Seen,
    may_start: bool,
    now: datetime,
    share: Share | None = None,
) -> Decision:
    """What follows.

    ``may_start``: the coordinator has room for one more run. ``share``: the workers that an elastic
    pool has now; None: as many as it asks for.
    """
    status = before.model_copy(deep=True)
    status.observed_generation = run.generation
    status.clients = run.spec.clients
    decision = Decision(status)
    if before.state.final:
        _after_the_end(run, decision, seen, now)
        return decision
    started = seen.server is not None or status.started_at is not None
    if not started:
        if run.spec.suspend:
            status.state = State.SUSPENDED
            _say(status, "Ready", False, "Suspended", "the run waits for `suspend: false`", now)
            return decision
        if not may_start:
            status.state = State.QUEUED
            _say(
                status, "Ready", False, "Queued", "other runs are going on; it starts in turn", now
            )
            return decision
    if status.started_at is None:
        status.started_at = now
    if seen.words is not None:
        _ended(run, decision, seen.words, now)
        return decision
    given_up = condition(seen.server, "Failed")
    if given_up is not None:
        message = given_up.get("message") or "its pods ended again and again"
        crash = last_crash(seen.pods)
        _end(
            decision,
            State.FAILED,
            "ServerEnded",
            f"the aggregation server did not last: {message}" + (f"; {crash}" if crash else ""),
            now,
        )
        return decision
    limit = run.spec.active_deadline_seconds
    if limit is not None:
        left = (status.started_at + timedelta(seconds=limit) - now).total_seconds()
        if left <= 0:
            message = f"the run took longer than activeDeadlineSeconds, {limit} s"
            _end(decision, State.FAILED, "DeadlineExceeded", message, now)
            decision.dismiss_server = True
            return decision
        decision.again_s = left
    decision.ensure = True
    _scale(run, decision, seen, share)
    jobs = (seen.server, *seen.workers.values())
    if any(begins(job) for job in jobs) or any(phase(pod) == "Pending" for pod in seen.pods):
        decision.again_s = min(decision.again_s or _AGAIN_S, _AGAIN_S)
    _report(run, status, seen, now)
    _say_who_is_banned(run, status, seen, now)
    if share is not None:
        _say_what_it_has(run, decision, share, now)
    return decision


def _scale(run: Run, decision: Decision, seen: Seen, share: Share | None) -> None:
    for name, asked in run.parallelism.items():
        wanted = asked if share is None else min(asked, share.workers)
        wanted = 0 if run.spec.suspend else wanted
        decision.parallelism[name] = wanted
        job = seen.workers.get(name)
        has = job["spec"].get("parallelism") if job is not None else wanted
        if run.queue and wanted and has:
            continue  # Kueue lets in as many as it likes
        if has != wanted:
            decision.scale[name] = wanted
    decision.status.desired_workers = sum(decision.parallelism.values())


def _report(run: Run, status: FederatedRunStatus, seen: Seen, now: datetime) -> None:
    serving = any(is_ready(pod) for pod in seen.pods if role_of(pod) == "server")
    progress = seen.progress
    if run.spec.suspend:
        status.state = State.SUSPENDED
    elif serving and (progress.workers or progress.round):
        status.state = State.RUNNING
    elif status.state is not State.RUNNING or not serving:
        status.state = State.PENDING
    status.gpus = sum(accelerators(pod) for pod in seen.pods if phase(pod) == "Running")
    if serving:
        status.workers = progress.workers
        status.round, status.rounds = progress.round, progress.rounds
        status.bytes_up, status.bytes_down = progress.bytes_up, progress.bytes_down
        known = progress.eta_s >= 0
        status.eta_seconds = round(progress.eta_s) if known else None
        status.eta = f"{status.eta_seconds}s" if known else ""
        status.metrics |= {name: f"{value:.6g}" for name, value in progress.metrics.items()}
    _name_the_round(status)
    trouble = trouble_of(seen, now)
    if trouble is not None:
        _say(status, "Ready", False, *trouble, now)
    elif run.spec.suspend:
        _say(status, "Ready", False, "Suspended", "the workers are taken away", now)
    elif serving and progress.absent:
        _say(status, "Ready", False, "WaitingForSites", _absent(progress.absent), now)
    elif status.state is State.RUNNING:
        _say(status, "Ready", True, "Running", "server and workers are at work", now)
    else:
        _say(status, "Ready", False, "Starting", "server and workers are being started", now)


def _absent(sites: Sequence[str]) -> str:
    return f"not connected: {_named(sites)}; see the pods of these sites"


def _named(sites: Sequence[str]) -> str:
    return ", ".join(sites[:5]) + (f" and {len(sites) - 5} more" if len(sites) > 5 else "")


def _say_who_is_banned(run: Run, status: FederatedRunStatus, seen: Seen, now: datetime) -> None:
    """Whether the server does what the object says; its workers' Jobs have no pods before that."""
    wanted = run.spec.banned
    if not wanted and not any(each.type == "Banned" for each in status.conditions):
        return
    if seen.progress.banned is None or set(seen.progress.banned) != set(wanted):
        message = f"the server is being told that it is to leave out {_named(wanted) or 'nobody'}"
        _say(status, "Banned", False, BEING_TOLD, message, now)
    elif wanted:
        _say(status, "Banned", True, "SitesBanned", f"left out: {_named(wanted)}", now)
    else:
        _say(status, "Banned", False, "NobodyBanned", "all sites may take part", now)


def _name_the_round(status: FederatedRunStatus) -> None:
    of = f"/{status.rounds}" if status.rounds else ""
    status.round_of = f"{status.round}{of}" if status.round or of else ""


def _say_what_it_has(run: Run, decision: Decision, share: Share, now: datetime) -> None:
    """How many workers an elastic pool has, and why not more."""
    status, most = decision.status, sum(run.parallelism.values())
    has = status.desired_workers
    words = f"{has} of at most {most} workers" + (f": {share.why}" if share.why else "")
    if has == most:
        _say(status, "Scaled", True, "AllWorkers", words, now)
    elif has or run.spec.suspend:
        _say(status, "Scaled", False, "FewerWorkers", words, now)
    else:
        _say(status, "Scaled", False, "NoWorkers", words, now)
        ready = next(each for each in status.conditions if each.type == "Ready")
        if ready.reason in ("Running", "Starting"):
            _say(status, "Ready", False, "NoWorkers", f"the run waits for room: {words}", now)


# ---------------------------------------------------------------- the end


def _ended(run: Run, decision: Decision, words: Mapping[str, Any], now: datetime) -> None:
    status = decision.status
    status.round = int(words.get("rounds", 0))
    status.rounds = max(status.rounds, status.round)
    status.bytes_up, status.bytes_down = (
        int(words.get(f"bytes_{way}", 0)) for way in ("up", "down")
    )
    status.metrics = {str(name): str(value) for name, value in words.get("metrics", {}).items()}
    if words.get("sha256"):
        status.model = ModelStatus(
            claim=run.child("run"), path=f"{run.id}/model.safetensors", sha256=words["sha256"]
        )
    state = State(words["state"])
    message = words.get("message", "")
    if details := words.get("details"):
        message += "\n" + details
    _end(decision, state, words.get("reason") or str(state), message, now)


def _end(decision: Decision, state: State, reason: str, message: str, now: datetime) -> None:
    status = decision.status
    status.state, status.ended_at = state, now
    status.workers = status.desired_workers = status.gpus = 0
    status.eta, status.eta_seconds = "", None
    _name_the_round(status)
    _say(status, "Ready", False, "Ended", "the run is over", now)
    _say(status, "Complete", state is State.SUCCEEDED, reason, message, now)
    decision.dismiss_workers = True
    decision.again_s = 0.0


def _after_the_end(run: Run, decision: Decision, seen: Seen, now: datetime) -> None:
    """Nothing of the run takes up the cluster any more; its disk and its record stay."""
    decision.dismiss_workers = bool(seen.workers)
    # One that has said how the run ended stays for its log.
    there = seen.server is not None and not finished(seen.server)
    decision.dismiss_server = there and seen.words is None
    ttl = run.spec.ttl_seconds_after_finished
    if ttl is not None and decision.status.ended_at is not None:
        left = (decision.status.ended_at + timedelta(seconds=ttl) - now).total_seconds()
        decision.delete_run, decision.again_s = left <= 0, max(left, 0.0)


# ---------------------------------------------------------------- conditions


def invalid(
    before: FederatedRunStatus, generation: int, message: str, now: datetime
) -> FederatedRunStatus:
    """The status of an object that asks for what cannot be."""
    status = before.model_copy(deep=True)
    status.state, status.observed_generation = State.FAILED, generation
    _say(status, "Complete", False, "InvalidSpec", message, now)
    return status


def say_what_is_in_force(status: FederatedRunStatus, deviation: str, now: datetime) -> None:
    """Tell of a run that goes on otherwise than its object says by now, until it does not."""
    if deviation:
        message = f"the run goes on as it was begun: {deviation}"
        _say(status, "SpecInForce", False, "NotInForce", message, now)
    elif any(each.type == "SpecInForce" for each in status.conditions):
        _say(status, "SpecInForce", True, "InForce", "the run is as its object says", now)


def _say(
    status: FederatedRunStatus, kind: str, holds: bool, reason: str, message: str, now: datetime
) -> None:
    """Set a condition; its time changes only with what it says."""
    word = "True" if holds else "False"
    for each in status.conditions:
        if each.type == kind:
            if each.status != word:
                each.last_transition_time = now
            each.status, each.reason, each.message = word, reason, message  # type: ignore[assignment]
            each.observed_generation = status.observed_generation
            return
    condition = Condition(
        type=kind,
        status="True" if holds else "False",
        reason=reason,
        message=message,
        last_transition_time=now,
        observed_generation=status.observed_generation,
    )
    status.conditions.append(condition)

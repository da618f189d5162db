"""The lease by which one coordinator of several leads."""

# The library is untyped.
# mypy: allow-untyped-calls
from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from urllib3.exceptions import HTTPError

from fedkube.coordinator.health import Pulse

log = logging.getLogger("fedkube.coordinator")


class _SteadyTime:
    """The time of day when this began, and the seconds since: it never jumps."""

    sleep = staticmethod(time.sleep)

    def __init__(self) -> None:
        self._began = time.time() - time.monotonic()

    def time(self) -> float:
        return self._began + time.monotonic()


# The library measures how long a lease holds by the time of day. Where that jumps, a standby would
# take the lease of a leader that lives, or a leader go on without.
leaderelection.time = _SteadyTime()  # type: ignore[attr-defined, assignment]

# A leader that is cut off ends before another may take its place: from its last success it waits
# _RETRY_S, tries for _RENEW_S, and the last try (two requests, and a pause) may begin at the end of
# that: 2 + 9 + 2 x 3 + 2 = 19 s at most. An API server that stands still for some seconds costs one
# try, after which there is time for another.
_LEASE_S, _RENEW_S, _RETRY_S, _TIMEOUT_S = 20, 9, 2, 3

# Between two tries to give the lease back.
_AGAIN_S = 0.1


class _Lock(LeaseLock):
    """A lease of which an API server that is away is asked again, in bounded time.

    The library's own waits for an answer for ever, in which time another could take the lease, and
    ends the election when there is no connection.
    """

    def __init__(self, name: str, namespace: str, identity: str, pulse: Pulse) -> None:
        super().__init__(name, namespace, identity)
        self._pulse = pulse
        self._told = ""
        self.released = False
        self.holds_until = 0.0  # in seconds that never jump
        settings = client.Configuration.get_default_copy()
        settings.retries = False  # the election tries again by itself, and counts the seconds
        self.api_instance = client.CoordinationV1Api(client.ApiClient(settings))
        for call in ("read", "create", "replace"):
            method = f"{call}_namespaced_lease"
            bounded = partial(getattr(self.api_instance, method), _request_timeout=_TIMEOUT_S)
            setattr(self.api_instance, method, bounded)

    def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        """The lease's record, or why there is none."""
        try:
            found, record = super().get(name, namespace)
        except HTTPError as error:
            found, record = False, ApiException(0, str(error))
        if found and record.holder_identity != self.identity:
            self.holds_until = 0.0
        # There is no lease before the first coordinator has made it.
        self._note(None if found or record.status == 404 else record)
        return found, record

    def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Make the lease; False if that did not work."""
        return self._write(super().create, name, namespace, election_record)

    def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        """Take or renew the lease; False if that did not work."""
        return self._write(super().update, name, namespace, updated_record)

    def release(self) -> None:
        """Give the lease back, if it is held, and take it no more.

        An API server that stands still is asked again for a while: nobody leads until the lease
        ends, otherwise.
        """
        self.released = True
        self.holds_until = 0.0
        until = time.monotonic() + _RENEW_S
        while True:
            try:
                self._give_back()
                return
            except (ApiException, HTTPError) as error:
                if time.monotonic() >= until or not _may_pass(error):
                    log.warning("the lease is not given back, and ends by itself: %s", error)
                    return
            time.sleep(_AGAIN_S)

    def _give_back(self) -> None:
        # The library's own copy is of the time before its last renewal.
        lease = self.api_instance.read_namespaced_lease(self.name, self.namespace)
        if lease.spec is not None and lease.spec.holder_identity == self.identity:
            lease.spec.holder_identity = None
            self.api_instance.replace_namespaced_lease(self.name, self.namespace, lease)

    def _write(self, call: Callable[..., bool], *arguments: Any) -> bool:
        if self.released:
            return False
        began = time.monotonic()
        try:
            held = call(*arguments)
        except HTTPError as error:
            self._note(ApiException(0, str(error)))
            return False
        if held and not self.released:
            # Another counts from when it sees this, which is later.
            self.holds_until = began + _LEASE_S
        return held

    def _note(self, error: ApiException | None) -> None:
        self._pulse.asked(error is None)
        told = f"{error.status} {error.reason}" if error else ""
        if told and told != self._told:
            log.warning("the lease cannot be read or written, which is tried again: %s", told)
        self._told = told


def _may_pass(error: Exception) -> bool:
    """Whether the same may work in a moment; in a conflict, a renewal was under way."""
    if not isinstance(error, ApiException):
        return True
    status = int(error.status or 0)
    return status in (0, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500


class Election:
    """One candidate: ``identity``, for the lease ``name`` of a namespace."""

    def __init__(self, name: str, namespace: str, identity: str, pulse: Pulse) -> None:
        self._lock = _Lock(name, namespace, identity, pulse)

    def run(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Wait for the lease, ``begin`` in a thread of its own, and ``end`` when it is lost."""
        election = electionconfig.Config(self._lock, _LEASE_S, _RENEW_S, _RETRY_S, begin, end)
        leaderelection.LeaderElection(election).run()

    def holds(self) -> bool:
        """Whether nobody else can lead now. One that was stopped for a while learns it here."""
        return time.monotonic() < self._lock.holds_until

    @property
    def resigned(self) -> bool:
        """Whether it leads no more, and has given its lease back or is about to."""
        return self._lock.released

    def resign(self) -> None:
        """Let another lead at once. Whoever calls ends right after: it may do no more work."""
        self._lock.release()

"""Follows a run's server by the exchange's own control calls, and tells it who is banned."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from fedkube.coordinator.seen import Progress
from fedkube.planner.need import Need
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.channels import Credentials
from fedkube.wire.control import ControlClient

log = logging.getLogger("fedkube.coordinator")

# An object is not written more often than this, however quick the rounds are.
_PACE_S = 1.0
_RECONNECT_S = 2.0
# How long a server may take to write down who is banned.
_BAN_S = 5.0


def unanswered(snapshot: pb.Snapshot) -> int:
    """Calls that there are workers for: of the phase that goes on, or that clients are still at.

    Where updates may be late, there are some of those between two phases, too.
    """
    of_phase = snapshot.clients - snapshot.done if snapshot.phase else 0
    return max(of_phase, snapshot.running)


class Follower:
    """Keeps ``progress`` up to date until it is stopped, and calls ``changed`` when it was."""

    def __init__(self, address: str, credentials: Credentials, changed: Callable[[], None]) -> None:
        self.progress = Progress()
        self.need = Need()
        self._address = address
        self._credentials = credentials
        self._changed = changed
        self._due = False
        self._banned: Sequence[str] = ()
        self._may_differ = asyncio.Event()
        self._trouble = ""
        self._task = asyncio.create_task(self._follow())

    def stop(self) -> None:
        """Hang up."""
        self._task.cancel()

    def ban(self, sites: Sequence[str]) -> None:
        """See to it that the server, whichever life of it, lets these take part no more."""
        self._banned = tuple(sites)
        self._may_differ.set()

    async def _follow(self) -> None:
        while True:
            control = ControlClient(self._address, self._credentials)
            telling = asyncio.create_task(self._tell_who_is_banned(control))
            try:
                with contextlib.suppress(OSError):
                    async for snapshot in control.watch():
                        self._take(snapshot)
            finally:
                telling.cancel()
            await control.close()
            await asyncio.sleep(_RECONNECT_S)

    async def _tell_who_is_banned(self, control: ControlClient) -> None:
        """Whenever the server says something else than it is to."""
        while True:
            await self._may_differ.wait()
            self._may_differ.clear()
            told = self.progress.banned
            if set(told or ()) == set(self._banned):
                continue  # or it has said nothing yet, and there is nothing to tell it
            trouble = await control.ban(self._banned, _BAN_S)
            if trouble and trouble != self._trouble:
                log.warning("%s could not be told who is banned: %s", self._address, trouble)
            self._trouble = trouble
            if trouble:
                await asyncio.sleep(_RECONNECT_S)
                self._may_differ.set()

    def _take(self, snapshot: pb.Snapshot) -> None:
        metrics = dict(self.progress.metrics)
        for ended in snapshot.ended:
            metrics |= {each.name: each.value for each in ended.metrics}
        self.progress = Progress(
            round=snapshot.round,
            rounds=snapshot.rounds,
            workers=snapshot.workers,
            bytes_up=snapshot.bytes_up,
            bytes_down=snapshot.bytes_down,
            eta_s=snapshot.eta_s,
            metrics=metrics,
            absent=tuple(snapshot.absent),
            banned=tuple(snapshot.banned),
        )
        self._may_differ.set()
        self.need.note(time.monotonic(), unanswered(snapshot))
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(_PACE_S, self._report)

    def _report(self) -> None:
        self._due = False
        self._changed()

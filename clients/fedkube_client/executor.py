"""The agent's side of its executor: a process that has the ClientApp loaded and waits for messages.

The app's code runs there and nowhere else. Whatever it does to its process (a crash, a leak, an
endless loop, ``os._exit``), the agent sees it end, says so, and starts another.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedkube.core.errors import AppInvalid
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import executor_pb2 as xpb
from fedkube_client import pipe
from fedkube_client.segments import Segment


class Ended(Exception):
    """The executor's process is gone.

    ``failure`` says how, for the server. ``place``: of the call, in its assignment, that it was in.
    """

    def __init__(self, failure: pb.Failure, place: int = 0) -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.place = place


# Where the process writes down which call of its assignment it is in.
_PROGRESS_BYTES = 8


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What an executor needs to load the ClientApp.

    ``node_config``: JSON of what the app finds in ``context.node_config`` beside its partition.
    """

    folder: Path
    component: str
    threads: int
    node_config: str = "{}"


class Executor:
    """One process. Methods block; an agent calls them on a thread."""

    def __init__(self, app: AppSettings) -> None:
        ours, theirs = socket.socketpair()
        self._channel = ours
        self._mapped: set[int] = set()
        self._killed_because = ""
        self._lock = threading.Lock()
        self._replies: dict[int, Segment] = {}
        self._free: deque[int] = deque()  # of these, filled by whatever ends the last view
        self._progress = Segment.create(_PROGRESS_BYTES)
        environment = dict(os.environ)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(app.threads)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedkube_client.executor_main", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                process_group=0,  # with what the app starts, so that all of it can be ended
            )
        threading.Thread(target=self._reap, name="reaper", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether it can be given another message."""
        return not self._killed_because and self._process.poll() is None

    def load(self, request: xpb.Load) -> None:
        """Load the ClientApp; AppInvalid, with its traceback, if it cannot be."""
        try:
            pipe.send(self._channel, request, [self._progress.descriptor])
            loaded, _ = pipe.receive(self._channel, xpb.Loaded)
        except pipe.Closed:
            raise Ended(self._how_it_ended()) from None
        if loaded.traceback:
            raise AppInvalid("the ClientApp cannot be loaded", details=loaded.traceback)

    def execute(
        self,
        request: xpb.Execute,
        segments: dict[int, tuple[int, int]],
        sent: Sequence[memoryview],
    ) -> tuple[xpb.Executed, list[memoryview]]:
        """Have the task's calls made; their outcomes, and the arrays that these refer to.

        ``sent``: the task's own, which may be among them.

        ``segments``: number to descriptor and size, of all that the task refers to. Those that the
        process has not mapped yet are passed to it.
        """
        for number, (_, nbytes) in segments.items():
            if number not in self._mapped:
                request.segments.add(id=number, nbytes=nbytes)
        while self._free:
            request.free.append(self._free.popleft())
        descriptors = [segments[each.id][0] for each in request.segments]
        self._mapped -= set(request.dropped)
        self._mapped |= set(segments)
        self._progress.view[:_PROGRESS_BYTES] = bytes(_PROGRESS_BYTES)
        try:
            pipe.send(self._channel, request, descriptors)
            executed, received = pipe.receive(self._channel, xpb.Executed)
        except pipe.Closed:
            raise Ended(self._how_it_ended(), self._place(request.task)) from None
        for number in executed.dropped:
            self._replies.pop(number).close()
        if executed.HasField("segment"):
            self._replies[executed.segment.id] = Segment(received[0], executed.segment.nbytes)
            self._replies[executed.segment.id].close_descriptor()
        made = [place for place in executed.places if not place.HasField("received")]
        views = iter(self._views(made) if made else [])
        return executed, [
            sent[place.received] if place.HasField("received") else next(views)
            for place in executed.places
        ]

    def _views(self, places: Sequence[xpb.Place]) -> list[memoryview]:
        """Arrays that the process has made, all in one segment."""
        number = places[0].segment
        whole = np.frombuffer(self._replies[number].view, np.uint8)
        # Used again by the process as soon as nobody looks at any part of it.
        weakref.finalize(whole, self._free.append, number).atexit = False
        return [whole[place.offset : place.offset + place.nbytes].data for place in places]

    def serving(self, task: pb.Task) -> int:
        """The call of the task that is being made now."""
        return task.calls[self._place(task)].id

    def _place(self, task: pb.Task) -> int:
        # The app could have written anything there.
        place = int.from_bytes(self._progress.view[:_PROGRESS_BYTES], "little")
        return min(place, len(task.calls) - 1)

    def kill(self, because: str) -> None:
        """End the process at once; a call that waits for it raises Ended with this reason."""
        with self._lock:
            self._killed_because = self._killed_because or because
        self._end()

    def close(self) -> None:
        """End the process, and wait until it is gone."""
        self._end()
        self._process.wait()
        self._channel.close()

    def _end(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()

    def _reap(self) -> None:
        """A child that the app has forked holds our socket open: its end is told by the process."""
        self._process.wait()
        try:
            self._channel.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already

    def _how_it_ended(self) -> pb.Failure:
        code = self._process.wait()
        with self._lock:
            because = self._killed_because
        if because:
            return pb.Failure(code=pb.Failure.TIMED_OUT, reason=because)
        if code == -signal.SIGKILL:
            return pb.Failure(
                code=pb.Failure.KILLED,
                reason="the client's process was killed (SIGKILL): by the kernel because memory "
                "ran out, or by a person",
            )
        if code < 0:
            name = signal.Signals(-code).name
            return pb.Failure(
                code=pb.Failure.CRASHED, reason=f"the client's process crashed ({name})"
            )
        return pb.Failure(
            code=pb.Failure.CRASHED,
            reason=f"the client's process ended by itself, with exit code {code}",
        )

"""A relay's stream to the server above: what comes down it, and what is said on it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from fedkube import __version__
from fedkube.core.errors import FedKubeError, Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import PROTOCOL
from fedkube.wire.stream import Stream
from fedkube.wire.uploads import Uploads
from fedkube_server.relay.desk import Desk
from fedkube_server.relay.fetches import Fetches

log = logging.getLogger("fedkube.relay")


class Upstream:
    """Receives for a relay. ``welcomed``: called when the server has first welcomed it.

    ``capacity``: how many assignments may come at a time: one for each worker.
    """

    def __init__(
        self,
        name: str,
        desk: Desk,
        uploads: Uploads,
        fetches: Fetches,
        capacity: Callable[[], int],
        welcomed: Callable[[pb.Welcome], None],
    ) -> None:
        self._name = name
        self._desk = desk
        self._uploads = uploads
        self._fetches = fetches
        self._capacity = capacity
        self._welcomed = welcomed
        self._incarnation = uuid.uuid4().hex
        self._began = time.time()
        self._stream: Stream | None = None
        self._known = False  # to the server
        self._app_broken = ""
        self._error: FedKubeError | None = None

    def app_broken(self, traceback: str) -> None:
        """A worker cannot load the ClientApp."""
        self._app_broken = traceback
        broken = pb.AppBroken(traceback=traceback)
        self._send(pb.WorkerFrame(app_broken=broken))

    def broken(self, error: FedKubeError) -> None:
        """The relay itself cannot go on."""
        self._error = self._error or error
        if self._stream is not None:
            self._stream.hang_up()

    def tell_capacity(self) -> None:
        """Workers have come or gone."""
        self._send(pb.WorkerFrame(capacity=pb.Capacity(assignments=self._capacity())))

    # ------------------------------------------------------------- the stream

    def hello(self) -> pb.Hello:
        """Who we are, and what we still have."""
        self.check()
        assignments = {
            *self._fetches.assignments,
            *self._desk.assignments,
            *self._uploads.assignments,
        }
        return pb.Hello(
            protocol=PROTOCOL,
            worker=self._name,
            version=__version__,
            incarnation=self._incarnation,
            began=self._began,
            assignments=sorted(assignments),
            held=self._desk.held,
        )

    def greeted(self, stream: Stream, welcome: pb.Welcome) -> None:
        """The server has us: say what we have, and go on."""
        self._stream = stream
        self._uploads.resume(stream)
        if not self._known:
            self._known = True
            self._welcomed(welcome)
        for need in self._fetches.needs():
            self._send(pb.WorkerFrame(need=need))
        if self._app_broken:
            self.app_broken(self._app_broken)
        self.tell_capacity()

    def cut(self) -> None:
        """What is not sent will be said by the next Hello, and what follows it."""
        self._stream = self._uploads.stream = None

    def check(self) -> None:
        """Raise what the relay has ended by."""
        if self._error is not None:
            raise self._error

    def _send(self, frame: pb.WorkerFrame) -> None:
        if self._stream is not None:
            self._stream.send(frames.control(frame))

    # ------------------------------------------------------------- what the server says

    def receive(self, frame: bytes) -> bool:
        """Take a frame; True if it is the goodbye. Rejected if it breaks a rule."""
        if frames.is_data(frame):
            for part in frames.read_data(frame):
                self._data(*part)
            return False
        message = frames.read_control(frame, pb.ServerFrame)
        match message.WhichOneof("kind"):
            case "task":
                self._begin(message.task)
            case "cancel":
                calls, assignments = set(message.cancel.calls), set(message.cancel.assignments)
                self._fetches.cancel(calls, assignments)
                self._desk.cancel(calls, assignments)
            case "settled":
                self._note(message.settled)
            case "need":
                self._uploads.give(message.need)
            case "received":
                if self._stream is not None:
                    self._stream.received(message.received)
            case "flush":
                self._desk.flush()
            case "goodbye":
                return True
            case other:
                raise Rejected(f"frame {other!r} does not belong here")
        return False

    def _begin(self, task: pb.Task) -> None:
        whole, wants = self._fetches.begin(task)
        if whole is not None:
            self._desk.take(whole)
        elif wants:
            self._send(pb.WorkerFrame(need=pb.Need(of=task.assignment, wants=wants)))

    def _data(self, number: int, offset: int, data: memoryview) -> None:
        whole, again = self._fetches.write(number, offset, data)
        for each in whole:
            self._desk.take(each)
        if again is not None:
            log.warning("an array came with a wrong digest: asked again")
            self._send(pb.WorkerFrame(need=again))

    def _note(self, settled: pb.Settled) -> None:
        for refusal in settled.refused:
            log.info("the server did not count a reply: %s", refusal.reason)
        self._uploads.settle(settled.upload)
        self._desk.settled(settled.upload, {refusal.call for refusal in settled.refused})

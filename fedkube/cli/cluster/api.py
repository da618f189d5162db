"""What a person at a terminal asks of the cluster's API, beside what the coordinator does."""
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from kubernetes.client.exceptions import ApiException
from kubernetes.stream import ws_client
from websocket import (
    ABNF,
    WebSocketBadStatusException,
    WebSocketException,
)

from fedkube.cli.cluster.refusals import details
from fedkube.coordinator.cluster import PATHS, SILENCE_S, Cluster, lines
from fedkube.coordinator.objects import Object

_STDOUT, _STDERR, _ENDING = 1, 2, 3


class CutOff(Exception):
    """A connection into a pod ended before what was asked for had come."""


class CommandFailed(Exception):
    """A command in a pod ended badly; the text is what it printed to stderr."""


class Api(Cluster):
    """The coordinator's calls, and those that only the commands make."""

    def post(self, body: Object) -> Object:
        """Create an object, and return it as the cluster has it."""
        return self._call("POST", self._path(body), body)

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object, if there is one.

        That this object is not there is None; that its whole kind is not there is an ApiException.
        """
        try:
            return self._call("GET", f"{PATHS[kind].format(namespace)}/{name}")
        except ApiException as error:
            if error.status == 404 and details(error).get("name") == name:
                return None
            raise

    def log(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        tail: int | None = None,
        previous: bool = False,
    ) -> Iterator[bytes]:
        """What a container has printed so far, in pieces as they come."""
        yield from self._stream(self._log_path(namespace, pod, container, tail, previous))

    def log_lines(
        self, namespace: str, pod: str, container: str, tail: int | None, since: str
    ) -> Generator[tuple[str, bytes]]:
        """What a container prints until it ends, line by line with the time of each.

        ``since``: a time as it came with a line; lines of that second come again.
        """
        path = self._log_path(namespace, pod, container, tail, previous=False)
        more = {"follow": "true", "timestamps": "true"} | ({"sinceTime": since} if since else {})
        for line in lines(self._stream(f"{path}&{urlencode(more)}")):
            when, _, text = line.partition(b" ")
            yield when.decode("ascii", "replace"), text

    def execute(
        self,
        namespace: str,
        pod: str,
        container: str,
        command: Sequence[str],
        write: Callable[[bytes], object],
    ) -> None:
        """Run a command in a pod and hand on what it prints, as it comes.

        The client library's own reader keeps all of it in memory, which a model may not fit.
        """
        query: list[tuple[str, Any]] = [("command", word) for word in command]
        query += [("container", container), ("stdout", "true"), ("stderr", "true")]
        url = f"{self._api.configuration.host}{PATHS['Pod'].format(namespace)}/{pod}/exec"
        complaint, ending = b"", b""
        self.calls += 1
        try:
            socket = ws_client.create_websocket(
                self._api.configuration, ws_client.get_websocket_url(url, query), self._signed({})
            )
            try:
                socket.settimeout(SILENCE_S)
                while True:
                    code, frame = socket.recv_data_frame(True)
                    if code == ABNF.OPCODE_CLOSE:
                        break
                    if code not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
                        continue
                    channel, data = frame.data[0], frame.data[1:]
                    if channel == _STDOUT:
                        write(data)
                    elif channel == _STDERR:
                        complaint = (complaint + data)[-4096:]
                    elif channel == _ENDING:
                        ending += data
            finally:
                socket.close()
        except WebSocketBadStatusException as error:
            body = error.resp_body or b""
            raise ApiException(
                status=error.status_code, reason=str(error), body=body.decode("utf-8", "replace")
            ) from None
        except (WebSocketException, OSError) as error:
            if not ending:
                raise CutOff(str(error)) from None
        if not ending:
            raise CutOff("the connection was closed")
        status = json.loads(ending)
        if status.get("status") != "Success":
            words = complaint.decode("utf-8", "replace").strip()
            raise CommandFailed(words or str(status.get("message", "")))

    def _log_path(
        self, namespace: str, pod: str, container: str, tail: int | None, previous: bool
    ) -> str:
        query = {"container": container}
        query |= {"tailLines": str(tail)} if tail is not None else {}
        query |= {"previous": "true"} if previous else {}
        return f"{PATHS['Pod'].format(namespace)}/{pod}/log?{urlencode(query)}"

"""``fedkube logs``: what a run's pods have printed, as it comes."""

from __future__ import annotations

import sys
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkube.cli.cluster import pods, runs
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import Context, Name, Namespace, note
from fedkube.core.errors import Environment, Usage

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

Object = dict[str, Any]

_PAUSE_S = 1.0
# The API server's answer to a container that has not begun, or has no earlier life.
_BAD_REQUEST = 400


def logs(
    run: Name,
    worker: Annotated[
        bool, typer.Option("--worker", help="Of the newest worker, instead of the server.")
    ] = False,
    pod: Annotated[
        str | None,
        typer.Option("--pod", help="Of this pod, as `fedkube get` has it.", show_default=False),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream", "-f", help="Go on until the run ends; follows a pod that takes over."
        ),
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", help="The last N lines alone.", show_default=False)
    ] = None,
    previous: Annotated[
        bool, typer.Option("--previous", help="Of the container before its last restart.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Print what the run's server, or a worker, has printed."""
    if worker and pod is not None:
        raise Usage("--worker and --pod exclude each other")
    if stream and previous:
        raise Usage("--stream and --previous exclude each other: what is over does not go on")
    if tail is not None and tail < 0:
        raise Usage(f"--tail is {tail}, and takes a number of lines")
    with connect(namespace, context) as (cluster, space):
        runs.get(cluster, space, run)
        if stream:
            with suppress(KeyboardInterrupt):
                _Stream(cluster, space, run, worker, pod, tail).follow()
            return
        chosen = pods.choose(pods.of(cluster, space, run), run, worker, pod)
        _print(cluster, space, chosen, tail, previous)


def _print(cluster: Api, space: str, pod: Object, tail: int | None, previous: bool) -> None:
    from kubernetes.client.exceptions import ApiException

    from fedkube.cli.cluster.refusals import message_of

    name, container = pod["metadata"]["name"], pods.container_with_words(pod)
    if not previous and not pods.has_begun(pod):
        raise Environment(
            f"pod {name} has printed nothing: it has not begun",
            hint=pods.trouble(pod) or "look again in a moment, or use --stream",
        )
    try:
        for chunk in cluster.log(space, name, container, tail=tail, previous=previous):
            _write(chunk)
    except ApiException as error:
        if error.status == _BAD_REQUEST:
            raise Environment(f"pod {name} has no such log: {message_of(error)}") from None
        raise


class _Stream:
    """Follows the log of a role's newest pod, and of the one that takes its place."""

    def __init__(
        self, cluster: Api, space: str, run: str, worker: bool, pod: str | None, tail: int | None
    ) -> None:
        self._cluster = cluster
        self._space = space
        self._run = run
        self._worker = worker
        self._pod = pod
        self._tail = tail
        self._told = ""
        self._last: dict[str, str] = {}  # the time of the last line, by pod and container
        self._over: set[str] = set()  # pods of which all has been printed

    def follow(self) -> None:
        """Until the run has ended, or the pod that was named."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        from fedkube.cli.cluster.follow import Patience

        patience = Patience()
        patience.answered()  # the run has been found
        while True:
            try:
                if self._once():
                    return
                patience.answered()
            except (ApiException, HTTPError) as error:
                # A pod that has just gone, or a container that has; or a log that was silent for
                # so long that we cut it: all are simply looked at again.
                if not _is_nothing(error):
                    patience.lost(error)
                    self._tell("the cluster does not answer; trying again")
            time.sleep(_PAUSE_S)

    def _once(self) -> bool:
        # The run first: what it had when it ended is all that it will ever have.
        run = self._cluster.find("FederatedRun", self._space, self._run)
        found = pods.of(self._cluster, self._space, self._run)
        if run is None or (not found and runs.status(run).state.final):
            return True
        if self._pod is None and not any(
            (pods.role(pod) != pods.SERVER) is self._worker for pod in found
        ):
            if runs.status(run).state.final:
                return True
            self._tell("waiting for a pod")
            return False
        pod = pods.choose(found, self._run, self._worker, self._pod)
        name = pod["metadata"]["name"]
        if name in self._over:
            return self._pod is not None or runs.status(run).state.final
        if not pods.has_begun(pod):
            trouble = pods.trouble(pod)
            self._tell(f"waiting for pod {name}" + (f": {trouble}" if trouble else ""))
            return runs.status(run).state.final
        # What is printed after this moment comes again when we ask again, unless it has ended.
        ended = pods.has_ended(pod)
        self._print(name, pods.container_with_words(pod))
        if ended:
            self._over.add(name)
        return False

    def _print(self, pod: str, container: str) -> None:
        key = f"{pod}/{container}"
        last = self._last.get(key, "")
        if not last:
            self._tell(f"log of pod {pod}")
        tail = None if last else self._tail
        lines = self._cluster.log_lines(self._space, pod, container, tail, _second(last))
        after = _instant(last)
        with closing(lines):
            for when, text in lines:
                # The API knows whole seconds alone: of the last one, some lines come again.
                instant = _instant(when)
                if instant is None:
                    note(f"{when} {text.decode('utf-8', 'replace')}".strip())
                    continue
                if after is not None and instant <= after:
                    continue
                self._last[key] = when
                self._told = ""
                _write(text + b"\n")

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            note(f"-- {text}")


def _is_nothing(error: Exception) -> bool:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import ReadTimeoutError

    from fedkube.cli.cluster.refusals import details

    if isinstance(error, ApiException):
        gone = error.status == 404 and bool(details(error).get("name"))
        return gone or error.status == _BAD_REQUEST
    return isinstance(error, ReadTimeoutError)


def _instant(when: str) -> tuple[datetime, int] | None:
    """A time of the log as something that can be compared: to the second, and nanoseconds."""
    if "T" not in when:
        return None
    whole, _, rest = when.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if rest else ""
    zone = rest[len(digits) :] if rest else ""
    try:
        moment = datetime.fromisoformat(whole + zone)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC), int(digits.ljust(9, "0")[:9] or 0)


def _second(when: str) -> str:
    """The whole second of a time, as the API takes it."""
    found = _instant(when)
    return f"{found[0]:%Y-%m-%dT%H:%M:%SZ}" if found else ""


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()

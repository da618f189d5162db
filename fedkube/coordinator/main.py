"""The coordinator's process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from functools import partial
from types import FrameType
from typing import Any

import kopf
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass
from urllib3.exceptions import HTTPError

from fedkube.api.v1alpha1 import federated_run as api
from fedkube.coordinator import check, cluster, election, health
from fedkube.coordinator.elastic import Elastic
from fedkube.coordinator.objects import RUN_LABEL, Defaults, Object
from fedkube.coordinator.reconciler import Reconciler
from fedkube.coordinator.supply import Supply

log = logging.getLogger("fedkube.coordinator")

_PREFIX = "FEDKUBE_"
_BEAT_S = 1.0
_PAUSE_S = 2.0


@dataclass(frozen=True)
class Settings:
    """From the environment: ``FEDKUBE_`` and the field's name in capitals."""

    image: str
    namespace: str
    pod: str
    namespaces: str = ""
    pull_policy: str = "IfNotPresent"
    pull_secrets: str = ""
    release: str = "fedkube"
    max_runs: int = Field(default=20, ge=1)
    port: int = Field(default=8080, ge=0)
    elastic: bool = False
    headroom: int = Field(default=0, ge=0)

    @classmethod
    def read(cls) -> Settings:
        """Those that are set; ValueError with a sentence for each that will not do."""
        words = {
            name.removeprefix(_PREFIX).lower(): value
            for name, value in os.environ.items()
            if name.startswith(_PREFIX) and value
        }
        known = {name: words[name] for name in cls.__dataclass_fields__ if name in words}
        try:
            return cls(**known)  # type: ignore[arg-type]
        except ValidationError as error:
            raise ValueError("; ".join(_complaint(each) for each in error.errors())) from None

    def defaults(self) -> Defaults:
        """What runs get that say nothing else."""
        return Defaults(
            self.image,
            self.pull_policy,
            tuple(self.pull_secrets.split()),
            {
                "app.kubernetes.io/name": "fedkube",
                "app.kubernetes.io/instance": self.release,
                "app.kubernetes.io/component": "coordinator",
            },
            self.namespace,
        )


def _complaint(error: Any) -> str:
    variable = _PREFIX + str(error["loc"][-1]).upper()
    if error["type"] in ("missing", "missing_argument"):
        return f"the environment variable {variable} is not set"
    return f"{variable}={error['input']}: {error['msg']}"


def _register(registry: kopf.OperatorRegistry, reconciler: Reconciler) -> None:
    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False  # Events are for users: the reconciler posts them
        settings.scanning.disabled = True  # the namespaces are given
        settings.watching.server_timeout = 300
        settings.networking.request_timeout = 30

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(api.GROUP, api.VERSION, api.PLURAL, registry=registry)
    async def on_run(body: kopf.Body, type: str | None, **_: Any) -> None:
        reconciler.saw_run(_plain(body), type == "DELETED")

    def watch(kind: str, *resource: str) -> None:
        @kopf.on.event(
            *resource, labels={RUN_LABEL: kopf.PRESENT}, id=f"on_{kind}", registry=registry
        )
        async def on_child(body: kopf.Body, type: str | None, **_: Any) -> None:
            reconciler.saw_child(kind, _plain(body), type == "DELETED")

    watch("Job", "batch", "v1", "jobs")
    watch("Pod", "", "v1", "pods")
    watch("Service", "", "v1", "services")
    watch("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims")


def _plain(body: Any) -> Object:
    found = dict(body)
    found["metadata"] = {
        name: value for name, value in dict(body["metadata"]).items() if name != "managedFields"
    }
    return found


async def operate(
    settings: Settings, leading: cluster.Cluster, api_client: client.ApiClient, pulse: health.Pulse
) -> None:
    """Coordinate until cancelled."""
    spaces = (settings.namespaces or settings.namespace).split()
    loop = asyncio.get_running_loop()
    supply = Supply(leading, spaces)
    elastic = Elastic(supply, settings.headroom) if settings.elastic else None
    reconciler = Reconciler(leading, settings.defaults(), settings.max_runs, elastic)
    registry = kopf.OperatorRegistry()
    _register(registry, reconciler)
    # None of these ends by itself: when one does, so do the others, and the process.
    async with asyncio.TaskGroup() as tasks:
        if elastic is not None:
            supply.start(partial(loop.call_soon_threadsafe, elastic.changed))
            tasks.create_task(elastic.follow())
        tasks.create_task(reconciler.run())
        tasks.create_task(_beat(pulse))
        for space in spaces:
            await until_served(api_client, space, pulse)
        await kopf.operator(registry=registry, standalone=True, namespaces=spaces)
        raise RuntimeError("the watches have ended")


async def until_served(api_client: client.ApiClient, space: str, pulse: health.Pulse) -> None:
    """Wait for the definition and the rights: a watch that begins without them sees nothing."""
    custom = client.CustomObjectsApi(api_client)
    while True:
        try:
            await asyncio.to_thread(check.served, custom, space)
            pulse.lacks("")
            return
        except (ApiException, HTTPError) as error:
            why = f"{error.status} {error.reason}" if isinstance(error, ApiException) else error
            log.warning("FederatedRuns of the namespace %s cannot be listed: %s", space, why)
            pulse.lacks(f"FederatedRuns of the namespace {space} cannot be listed: {why}")
        await asyncio.sleep(_PAUSE_S)


async def _beat(pulse: health.Pulse) -> None:
    while True:
        pulse.turned()
        await asyncio.sleep(_BEAT_S)


def main() -> None:
    """Wait to be the leader, then coordinate; a leader that loses its lease ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    for quiet in ("kopf", "leaderelection"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    try:
        settings = Settings.read()
    except ValueError as error:
        sys.exit(f"the coordinator cannot start: {error}")
    pulse = health.Pulse()
    health.serve(pulse, settings.port)
    api_client = cluster.load()
    candidate = election.Election(
        f"{settings.release}-coordinator", settings.namespace, settings.pod, pulse
    )

    def stop(number: int, _frame: FrameType | None) -> None:
        log.info("ended by %s", signal.Signals(number).name)
        candidate.resign()
        os._exit(0)  # nothing is lost: whoever leads next looks at every run again

    def lead() -> None:
        log.info("leading")
        try:
            leading = cluster.Cluster(api_client, candidate.holds)
            asyncio.run(operate(settings, leading, api_client, pulse))
        except BaseException:
            log.exception("the coordinator cannot go on")
        finally:
            if not candidate.resigned:
                os._exit(1)

    def lose() -> None:
        if candidate.resigned:
            return  # the lease is being given back, after which the process ends
        log.error("the lease is lost, so that another may lead")
        os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # The library waits for signals of its own in the main thread's stead.
    thread = threading.Thread(target=candidate.run, args=(lead, lose), daemon=True)
    thread.start()
    thread.join()
    sys.exit(1)

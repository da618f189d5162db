"""``FederatedRun``: the object that a user creates on a cluster, and what it says of itself."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from fedkube.api.v1alpha1.groups import DNS_NAME, MAX_SITES, PodOverrides, PoolGroup, Site
from fedkube.api.v1alpha1.run_spec import (
    COMPRESSION,
    JOURNAL,
    JOURNAL_BYTES,
    JOURNAL_PATTERN,
    KEEP_JOURNAL,
    Checkpoints,
    Cohort,
    CompressionName,
    ConfigValue,
    Declared,
)

GROUP = "fedkube.io"
VERSION = "v1alpha1"
KIND = "FederatedRun"
PLURAL = "federatedruns"
API_VERSION = f"{GROUP}/{VERSION}"

# The longest name of which every child's name is still a DNS label.
MAX_NAME = 40
# The same of a site's Job: a label holds 63 characters, and its pods' names are longer by six.
MAX_NAME_AND_SITE = 51
# The reason of the condition Banned as long as the server has not heard of it.
BEING_TOLD = "BeingTold"
# What Kubernetes takes for a quantity, such as 500m, 2 or 1.5Gi.
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"


class Bundle(Declared):
    """The app's folder as a zip file: in a ConfigMap under ``app.zip``, or behind a URL."""

    config_map: str = Field(
        default="",
        pattern=DNS_NAME.replace("^", "^(").replace("$", ")?$"),
        description="The ConfigMap, of the run's namespace",
    )
    url: str = Field(
        default="",
        pattern=r"^((https?|s3|gs|gcs|az|abfs)://[^\s]+)?$",
        max_length=2048,
        description="Where the run's pods fetch it from; https, or an object store",
    )
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Digest of the zip file")

    @model_validator(mode="after")
    def _is_somewhere(self) -> Bundle:
        if bool(self.config_map) == bool(self.url):
            raise ValueError("give configMap or url, and not both")
        return self


class App(Declared):
    """The Flower app: in an image, or in a bundle that any image with its packages can run."""

    image: str = Field(
        default="",
        max_length=512,
        pattern=r"^\S*$",
        description="Image of server and workers; empty: the coordinator's default image",
    )
    path: str = Field(
        default="/app",
        pattern=r"^/[^\s]*$",
        max_length=512,
        description="The app's folder in the image, where there is no bundle",
    )
    bundle: Bundle | None = Field(default=None, description="The app's code, where it is not baked")


class Storage(Declared):
    """Where the run folder is: a claim of the run's own."""

    size: str = Field(default="1Gi", pattern=_QUANTITY, description="Asked of the storage class")
    class_name: str | None = Field(default=None, description="Null: the cluster's default class")
    keep: bool = Field(default=False, description="Keep the claim when the run is deleted")


class Exposure(Declared):
    """How clients reach the server. From outside the cluster, by a node's port or a balancer."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="Of the server's Service"
    )
    hosts: list[str] = Field(
        default_factory=list,
        max_length=16,
        description="Names and addresses that clients outside use; the certificate has them",
    )
    annotations: dict[str, str] = Field(default_factory=dict, description="Of the Service")


class ServerGroup(Declared):
    """The aggregation server."""

    storage: Storage = Field(default_factory=Storage, description="For the run folder")
    journal: str = Field(default="", pattern=JOURNAL_PATTERN, max_length=2048, description=JOURNAL)
    journal_bytes: int | None = Field(default=None, ge=1, description=JOURNAL_BYTES)
    keep_journal: bool = Field(default=False, description=KEEP_JOURNAL)
    exposure: Exposure = Field(default_factory=Exposure, description="Who can reach it")
    pod: PodOverrides = Field(default_factory=PodOverrides, description="Of the server's pod")


class Sharing(Declared):
    """What the run gets of accelerators that others want as well."""

    priority: int = Field(
        default=0, ge=-1000, le=1000, description="Runs of a higher one are served first"
    )
    weight: float = Field(
        default=1.0, gt=0, le=1000, description="Its share among runs of the same priority"
    )


class FederatedRunSpec(Declared):
    """What a user asks for."""

    app: App = Field(default_factory=App, description="The Flower app")
    run_config: dict[str, ConfigValue] = Field(
        default_factory=dict, description="Overrides of the app's run config"
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Same seed, same result; null: by the run's uid"
    )
    pool: PoolGroup | None = Field(
        default=None, description="Logical clients that worker pods serve in turn"
    )
    sites: list[Site] = Field(
        default_factory=list,
        max_length=MAX_SITES,
        description="Silos, each with a pod and data of its own; instead of a pool",
    )
    banned: list[str] = Field(
        default_factory=list,
        max_length=MAX_SITES,
        description="Names of sites that may not take part; they are refused, and what has not "
        "come from them whole is left out",
    )
    cohort: Cohort = Field(
        default_factory=Cohort, description="Who takes part in a round, and when it is closed"
    )
    compression: CompressionName = Field(default="none", description=COMPRESSION)
    sharing: Sharing = Field(
        default_factory=Sharing, description="Among runs that want the same accelerators"
    )
    server: ServerGroup = Field(default_factory=ServerGroup, description="The aggregation server")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="Models that stay")
    suspend: bool = Field(
        default=False, description="Take the workers away, and do not start what has not begun"
    )
    active_deadline_seconds: int | None = Field(
        default=None, ge=1, description="Fail the run when it takes longer; null: no limit"
    )
    backoff_limit: int = Field(
        default=3, ge=0, le=100, description="How often the server is started again"
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, description="Delete the run so long after its end; null: never"
    )

    @property
    def clients(self) -> int:
        """How many clients the run has."""
        return self.pool.clients if self.pool else len(self.sites)

    @property
    def device_classes(self) -> set[str]:
        """Of the devices that its workers claim."""
        pods = [site.pod for site in self.sites] + ([self.pool.pod] if self.pool else [])
        return {name for pod in pods for name in pod.devices}

    @model_validator(mode="after")
    def _has_one_kind_of_clients(self) -> FederatedRunSpec:
        if (self.pool is None) == (not self.sites):
            raise ValueError("give the clients as a pool or as sites, and not both")
        if self.pool is None and len(self.sites) < 2:
            raise ValueError("sites has one, and a run needs at least 2")
        self.cohort.check(self.clients)
        return self

    @model_validator(mode="after")
    def _sites_share_nothing(self) -> FederatedRunSpec:
        names = [site.name for site in self.sites]
        if twice := _twice(names):
            raise ValueError(f"sites has {twice} twice")
        if twice := _twice([site.data.claim for site in self.sites if site.data]):
            raise ValueError(f"two sites have the claim {twice}: each has data of its own")
        if strangers := [name for name in self.banned if name not in names]:
            raise ValueError(f"banned has {strangers[0]}, which is none of the run's sites")
        return self


def _twice(names: list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


class State(StrEnum):
    """Where a run is, in one word."""

    QUEUED = "Queued"
    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self in (State.SUCCEEDED, State.FAILED, State.STOPPED)


class _Reported(Declared):
    # What stands in an object may be of a newer version.
    model_config = ConfigDict(extra="ignore", strict=False)


class Condition(_Reported):
    """As metav1.Condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(description="One word")
    message: str = Field(default="", description="A sentence that says what to do")
    last_transition_time: datetime
    observed_generation: int = 0


class ModelStatus(_Reported):
    """Where the final arrays are."""

    claim: str = Field(description="The PersistentVolumeClaim")
    path: str = Field(description="In the claim")
    sha256: str = Field(description="Of the file")


class FederatedRunStatus(_Reported):
    """What the coordinator has seen."""

    state: State = Field(default=State.QUEUED, description="In one word")
    observed_generation: int = Field(default=0, description="Of the spec that this is about")
    conditions: list[Condition] = Field(default_factory=list)
    round: int = Field(default=0, description="The round that goes on, or the last")
    rounds: int = Field(default=0, description="Rounds planned, where the app says it; else 0")
    round_of: str = Field(default="", description="Both in one word, for kubectl")
    clients: int = Field(default=0, description="Logical clients")
    workers: int = Field(default=0, description="Worker pods that are connected")
    desired_workers: int = Field(default=0, description="Worker pods that there are to be now")
    gpus: int = Field(default=0, description="Accelerators that running worker pods hold")
    eta: str = Field(default="", description="Until the end, as 90s")
    eta_seconds: int | None = Field(default=None, description="The same; null: not known")
    bytes_up: int = Field(default=0, description="From workers to the server")
    bytes_down: int = Field(default=0, description="From the server to workers")
    metrics: dict[str, str] = Field(default_factory=dict, description="The newest of each")
    model: ModelStatus | None = None
    started_at: datetime | None = Field(default=None, description="When the server was started")
    ended_at: datetime | None = Field(default=None, description="When the end was seen")


PRINTER_COLUMNS = (
    ("State", "string", ".status.state"),
    ("Round", "string", ".status.roundOf"),
    ("Clients", "integer", ".status.clients"),
    ("GPUs", "integer", ".status.gpus"),
    ("ETA", "string", ".status.eta"),
    ("Age", "date", ".metadata.creationTimestamp"),
)

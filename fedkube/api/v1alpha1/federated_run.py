"""``FederatedRun``: the object that a user creates on a cluster, and what it says of itself."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fedkube.api.v1alpha1.run_spec import Checkpoints, ConfigValue, Declared

GROUP = "fedkube.io"
VERSION = "v1alpha1"
KIND = "FederatedRun"
PLURAL = "federatedruns"
API_VERSION = f"{GROUP}/{VERSION}"

# The longest name of which every child's name is still a DNS label.
MAX_NAME = 40
# What Kubernetes takes for a quantity, such as 500m, 2 or 1.5Gi.
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
_DNS_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

# Part of a pod that is passed on as it is; Kubernetes validates it.
Passed = dict[str, Any]


class Bundle(Declared):
    """The app's folder as a zip file, in a ConfigMap of the run's namespace, under ``app.zip``."""

    config_map: str = Field(pattern=_DNS_NAME, description="The ConfigMap's name")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Digest of the zip file")


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


class EnvVar(Declared):
    """One environment variable of a container."""

    name: str = Field(pattern=_ENV_NAME, description="The variable's name")
    value: str = Field(default="", description="Its value")


class Resources(Declared):
    """Requests and limits of a container, as Kubernetes has them."""

    requests: dict[str, int | str] = Field(default_factory=dict, description="What it needs")
    limits: dict[str, int | str] = Field(default_factory=dict, description="What it may take")

    @model_validator(mode="after")
    def _accelerators_are_whole(self) -> Resources:
        for name, amount in (*self.requests.items(), *self.limits.items()):
            if "/" in name and not str(amount).isdigit():
                raise ValueError(f"{name} is {amount!r}, and takes a whole number")
        return self


class PodOverrides(Declared):
    """What pods get on top of what the coordinator gives them."""

    resources: Resources = Field(
        default_factory=Resources, description="Of the container; limits take GPUs"
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes")
    tolerations: list[Passed] = Field(default_factory=list, description="Taints that are borne")
    affinity: Passed = Field(default_factory=dict, description="As a pod has it")
    priority_class_name: str = Field(default="", description="Of the pods")
    env: list[EnvVar] = Field(default_factory=list, description="More environment variables")
    volumes: list[Passed] = Field(
        default_factory=list, description="More volumes; hostPath is refused"
    )
    volume_mounts: list[Passed] = Field(default_factory=list, description="Where they are mounted")

    @model_validator(mode="after")
    def _no_way_to_the_node(self) -> PodOverrides:
        for volume in self.volumes:
            name = volume.get("name", "?")
            if "hostPath" in volume:
                raise ValueError(f"volume {name} is a hostPath, which a run may not have")
            if not isinstance(name, str) or name.startswith("fedkube-"):
                raise ValueError("names of volumes that begin with fedkube- are the coordinator's")
        return self


class PoolGroup(Declared):
    """Logical clients that an elastic set of worker pods serves in turn."""

    clients: int = Field(
        ge=2, le=1_000_000, description="Logical clients, each with its own partition and state"
    )
    workers: int = Field(default=1, ge=1, le=10_000, description="Worker pods at most")
    threads: int = Field(default=1, ge=1, le=1024, description="CPU threads a client computes with")
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="How often a client is tried when its worker dies"
    )
    client_timeout_s: float | None = Field(
        default=None, gt=0, description="Longest a client may take for one message; null: no limit"
    )
    pod: PodOverrides = Field(default_factory=PodOverrides, description="Of the worker pods")


class Storage(Declared):
    """Where the run folder is: a claim of the run's own."""

    size: str = Field(default="1Gi", pattern=_QUANTITY, description="Asked of the storage class")
    class_name: str | None = Field(default=None, description="Null: the cluster's default class")
    keep: bool = Field(default=False, description="Keep the claim when the run is deleted")


class ServerGroup(Declared):
    """The aggregation server."""

    storage: Storage = Field(default_factory=Storage, description="For the run folder")
    pod: PodOverrides = Field(default_factory=PodOverrides, description="Of the server's pod")


class FederatedRunSpec(Declared):
    """What a user asks for."""

    app: App = Field(default_factory=App, description="The Flower app")
    run_config: dict[str, ConfigValue] = Field(
        default_factory=dict, description="Overrides of the app's run config"
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Same seed, same result; null: by the run's uid"
    )
    pool: PoolGroup = Field(description="The clients")
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

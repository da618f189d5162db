"""The kinds of client groups that a run may have, and what their pods get."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedkube.api.v1alpha1.run_spec import ConfigValue, Declared
from fedkube.core.accelerators import of_class

DNS_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
_SITE_NAME = r"^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$"
_PATH = r"^/[^\s]*$"
# One Secret holds a certificate for each site, and a Secret holds a MiB.
MAX_SITES = 256
# Clients on one accelerator at a time; more processes only take turns.
_MOST_AT_ONCE = 64
# That many devices a claim may have.
_MOST_DEVICES = 32
# What the client tells the app by itself.
_RESERVED = {"partition-id", "num-partitions"}

# Part of a pod that is passed on as it is; Kubernetes validates it.
Passed = dict[str, Any]


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
    devices: dict[str, int] = Field(
        default_factory=dict,
        description="Devices of each pod by their DeviceClass, where the cluster gives them out by "
        "claims",
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes")
    tolerations: list[Passed] = Field(default_factory=list, description="Taints that are borne")
    affinity: Passed = Field(default_factory=dict, description="As a pod has it")
    priority_class_name: str = Field(default="", description="Of the pods")
    env: list[EnvVar] = Field(default_factory=list, description="More environment variables")
    env_from_secrets: list[str] = Field(
        default_factory=list, description="Secrets whose keys become environment variables"
    )
    volumes: list[Passed] = Field(
        default_factory=list, description="More volumes; hostPath is refused"
    )
    volume_mounts: list[Passed] = Field(default_factory=list, description="Where they are mounted")

    @property
    def accelerators(self) -> dict[str, int]:
        """How many of which a pod asks for, such as nvidia.com/gpu."""
        asked = self.resources.requests | self.resources.limits
        whole = {name: int(amount) for name, amount in asked.items() if "/" in name and int(amount)}
        return whole | {of_class(name): count for name, count in self.devices.items()}

    @model_validator(mode="after")
    def _devices_are_of_classes(self) -> PodOverrides:
        for name, count in self.devices.items():
            if not re.match(DNS_NAME, name):
                raise ValueError(f"{name!r} is no name of a DeviceClass")
            if not 1 <= count <= _MOST_DEVICES:
                raise ValueError(f"devices of {name}: from 1 to {_MOST_DEVICES}, and not {count}")
        return self

    @model_validator(mode="after")
    def _no_way_to_the_node(self) -> PodOverrides:
        for volume in self.volumes:
            name = volume.get("name", "?")
            if "hostPath" in volume:
                raise ValueError(f"volume {name} is a hostPath, which a run may not have")
            if not isinstance(name, str) or name.startswith("fedkube-"):
                raise ValueError("names of volumes that begin with fedkube- are the coordinator's")
        for mount in self.volume_mounts:
            if str(mount.get("name", "")).startswith("fedkube-"):
                raise ValueError(f"volume {mount['name']} is the coordinator's to mount")
        return self


def _clients_at_once(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= _MOST_AT_ONCE):
        return value
    # In one sentence, where a union would have one for each of its kinds.
    raise ValueError(f"must be from 1 to {_MOST_AT_ONCE}, or auto, and is {value!r}")


class PoolGroup(Declared):
    """Logical clients that an elastic set of worker pods serves in turn."""

    clients: int = Field(
        ge=2, le=1_000_000, description="Logical clients, each with its own partition and state"
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Worker pods at most; null: one, or with accelerators one for each client",
    )
    clients_per_accelerator: Annotated[int | Literal["auto"], BeforeValidator(_clients_at_once)] = (
        Field(
            default=1,
            description="Clients that a pod serves at a time on its accelerator; when memory runs "
            "out there, one less. auto: as many as its memory turns out to be for. More than one "
            "goes with one accelerator a pod",
        )
    )
    threads: int = Field(default=1, ge=1, le=1024, description="CPU threads a client computes with")
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="How often a client is tried when its worker dies"
    )
    client_timeout_s: float | None = Field(
        default=None, gt=0, description="Longest a client may take for one message; null: no limit"
    )
    pod: PodOverrides = Field(default_factory=PodOverrides, description="Of the worker pods")

    @property
    def elastic(self) -> bool:
        """Whether the number of workers follows the accelerators that there are."""
        return bool(self.pod.accelerators)

    @property
    def most_workers(self) -> int:
        """Pods; more would idle, or were not asked for."""
        useful = self.pods_for(self.clients)
        wanted = self.workers or (useful if self.elastic else 1)
        return min(wanted, useful)

    def pods_for(self, clients: int) -> int:
        """So many serve these at a time."""
        return -(-clients // self.at_once)

    @property
    def at_once(self) -> int:
        """Clients that a pod serves at a time, as far as that is said."""
        return 1 if self.clients_per_accelerator == "auto" else self.clients_per_accelerator

    @model_validator(mode="after")
    def _shares_one_accelerator(self) -> PoolGroup:
        count = sum(self.pod.accelerators.values())
        if self.clients_per_accelerator != 1 and count != 1:
            raise ValueError(
                f"clientsPerAccelerator is {self.clients_per_accelerator}, which goes with one "
                f"accelerator a pod, and its limits have {count or 'none'}"
            )
        return self


class SiteData(Declared):
    """A site's own data: a claim of its namespace, mounted into its pod and no other."""

    claim: str = Field(pattern=DNS_NAME, description="The PersistentVolumeClaim")
    mount_path: str = Field(
        default="/data", pattern=_PATH, max_length=512, description="Where the app finds it"
    )
    read_only: bool = Field(default=True, description="Whether the app may not write there")


class Site(Declared):
    """A named silo with data of its own: one client, one pod."""

    name: str = Field(pattern=_SITE_NAME, description="Of the site; unique in the run")
    data: SiteData | None = Field(default=None, description="Its data")
    node_config: dict[str, ConfigValue] = Field(
        default_factory=dict, description="What the app reads in context.node_config"
    )
    threads: int = Field(default=1, ge=1, le=1024, description="CPU threads it computes with")
    pod: PodOverrides = Field(
        default_factory=PodOverrides, description="Of its pod; nodeSelector pins it to its nodes"
    )

    @model_validator(mode="after")
    def _tells_nothing_else(self) -> Site:
        if taken := sorted(_RESERVED & set(self.node_config)):
            raise ValueError(f"nodeConfig has {taken[0]}, which every client is told already")
        return self

"""What an aggregation server is told to do: one run, every default filled in."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

ConfigValue = bool | int | float | str


class Declared(BaseModel):
    """Fields are camelCase in files, as Kubernetes has them; unknown ones are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        strict=True,
        ser_json_inf_nan="constants",
    )


class Pool(Declared):
    """Logical clients that an elastic set of workers serves in turn."""

    clients: int = Field(ge=1, description="Logical clients, each with its own partition and state")
    client_timeout_s: float | None = Field(
        default=None, gt=0, description="Longest a client may take for one message; null: no limit"
    )
    max_attempts: int = Field(
        default=3, ge=1, description="How often a client is tried when its worker dies"
    )
    threads: int = Field(default=1, ge=1, description="CPU threads a client may compute with")
    cache_bytes: int | None = Field(
        default=None,
        ge=1024**2,
        description="Bound of a worker's tensor cache, in bytes; null: by the machine's memory",
    )


class Server(Declared):
    """The aggregation server."""

    listen: str = Field(default="127.0.0.1:0", description="HOST:PORT; port 0 takes a free one")


class Checkpoints(Declared):
    """Which rounds' models are kept in the run folder, besides the final one."""

    every: int = Field(default=1, ge=0, description="Keep one every so many rounds; 0 keeps none")
    keep: int = Field(default=3, ge=0, description="Keep at most the newest so many; 0 keeps all")


class RunSpec(Declared):
    """What a run is asked to be."""

    app: str = Field(description="The Flower app's folder")
    run_config: dict[str, ConfigValue] = Field(
        default_factory=dict, description="The app's run config, overrides merged in"
    )
    pool: Pool
    server: Server = Server()
    checkpoints: Checkpoints = Checkpoints()
    seed: int = Field(ge=0, lt=2**63, description="Same seed, same result")

"""What an aggregation server is told to do: one run, every default filled in."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from fedkube.core.cohort import share

ConfigValue = bool | int | float | str

# By the names of fedkube.core.quantisation.Compression; files have them as words.
CompressionName = Literal["none", "bf16", "int8"]
COMPRESSION = (
    "How clients send their updates: as they are, or as the difference to what they were sent in "
    "two bytes an element or one"
)


NO_JOURNAL = "off"
JOURNAL_PATTERN = r"^(off|(s3|gs|az|abfss?)://\S+)?$"
JOURNAL = (
    "Where the journal is from which a run goes on: a URL in an object store (s3, gs, az, abfs, "
    "abfss), below which the run gets a folder of its own; empty: in the run folder; off: nowhere"
)
JOURNAL_BYTES = (
    "Beyond so many bytes the journal is condensed: rounds that have ended are left out, and what "
    "the strategy was after them is kept; null: in the run folder, a quarter of the space that "
    "was free; in an object store, never"
)
KEEP_JOURNAL = "Keep the journal of a run that has ended well, so that it can be forked"


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
    journal: str = Field(default="", pattern=JOURNAL_PATTERN, max_length=2048, description=JOURNAL)
    journal_bytes: int | None = Field(default=None, ge=1, description=JOURNAL_BYTES)
    keep_journal: bool = Field(default=False, description=KEEP_JOURNAL)


class Checkpoints(Declared):
    """Which rounds' models are kept in the run folder, besides the final one."""

    every: int = Field(default=1, ge=0, description="Keep one every so many rounds; 0 keeps none")
    keep: int = Field(default=3, ge=0, description="Keep at most the newest so many; 0 keeps all")


class Cohort(Declared):
    """The clients of one round. What is not said is left to the app's strategy."""

    minimum: int | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        description="A training round with fewer updates fails the run; with sites, a round begins "
        "when so many are connected (null: all of them)",
    )
    fraction: float | None = Field(
        default=None, gt=0, le=1, description="Of the clients, for training; null: the strategy's"
    )
    over_selection: float = Field(
        default=1.0,
        ge=1,
        le=10,
        description="Ask so many times as many clients for training, and close the round when as "
        "many as were wanted have answered",
    )
    deadline_seconds: float | None = Field(
        default=None, gt=0, description="Close a round's phase after this time; null: never"
    )
    speculate: bool = Field(
        default=False,
        description="Give clients that take several times as long as most to a second, idle worker "
        "too; the first answer counts. Not for sites, nor below relays. Such a client's code runs "
        "twice, which matters where it writes anything but its state",
    )

    late: Literal["refuse", "fold"] = Field(
        default="refuse",
        description="What becomes of training that goes on when the round is closed. refuse: it is "
        "cancelled. fold: it goes on, and its update counts in the round in which it comes, the "
        "less the older it is (asynchronous training, after FedBuff). Only for strategies of "
        "Flower's newer API that take the mean of the updates",
    )
    staleness_exponent: float = Field(
        default=0.5,
        ge=0,
        le=10,
        description="Of what a late update changes, 1 / (1 + rounds) to this power counts",
    )
    max_staleness: int = Field(
        default=10,
        ge=1,
        le=1_000_000,
        description="Rounds after which a late update counts no more",
    )

    def check(self, clients: int) -> None:
        """ValueError where the fields do not go together, or with so many clients."""
        if self.late == "fold" and self.over_selection == 1 and self.deadline_seconds is None:
            raise ValueError(
                "cohort.late is fold, and nothing is ever late: give the cohort an over-selection "
                "above 1, or a deadline"
            )
        if self.minimum is None:
            return
        if self.minimum > clients:
            raise ValueError(f"cohort.minimum is {self.minimum}, and the run has {clients} clients")
        if self.fraction is not None and self.minimum > (wanted := share(clients, self.fraction)):
            raise ValueError(
                f"cohort.minimum is {self.minimum}, and cohort.fraction {self.fraction:g} of "
                f"{clients} clients is {wanted}"
            )


class RunSpec(Declared):
    """What a run is asked to be."""

    app: str = Field(description="The Flower app's folder")
    run_config: dict[str, ConfigValue] = Field(
        default_factory=dict, description="The app's run config, overrides merged in"
    )
    pool: Pool
    sites: list[str] = Field(
        default_factory=list,
        description="Names of silos, by partition; a worker serves the one of its certificate",
    )
    cohort: Cohort = Cohort()
    compression: CompressionName = Field(default="none", description=COMPRESSION)
    server: Server = Server()
    checkpoints: Checkpoints = Checkpoints()
    seed: int = Field(ge=0, lt=2**63, description="Same seed, same result")

"""What a seed of the simulation stands for: an app, its clients, its workers, what goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from fedkube.api.v1alpha1 import Cohort
from fedkube.core.quantisation import Compression
from tests.simulation.apps import APPS

# What may go wrong at any time: a connection is cut, or one side hears of it later; nothing passes
# one way or both; a worker's process is killed, its executor's, the server's; the disk is full; the
# machine's clock jumps.
KINDS = ("cut", "half open", "block", "worker", "executor", "server", "full", "clock")

# Nothing goes wrong any more after so many seconds.
_TROUBLED_S = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed stands for."""

    seed: int
    app: str
    clients: int
    workers: int
    size: int
    troubles: tuple[tuple[float, str], ...]  # at which time, which
    crashes: tuple[int, ...]  # at which of the places where the server may die, counted
    # Where each life of the server dies, when it comes there for the how many-th time.
    dies: tuple[str, int] | None = None
    speculates: bool = False  # calls that take long are given to a second worker too
    condenses: bool = False  # the journal, whenever it is twice as large as that left it
    relays: int = 0  # between the server and the workers
    compression: Compression = Compression.NONE
    sites: bool = False  # each client is a site with a worker of its own, and there are no relays
    late: bool = False  # half of the clients close a round, and the others' updates count later

    @classmethod
    def of(cls, seed: int) -> Plan:
        """Chosen by the seed: one app, some workers, and what goes wrong."""
        chance = random.Random(seed)
        # Not all at a time: some things only go wrong where others do not.
        kinds = chance.sample(KINDS, chance.randint(1, len(KINDS)))
        troubles = sorted(
            (round(chance.uniform(0, _TROUBLED_S) ** 2 / _TROUBLED_S, 4), chance.choice(kinds))
            for _ in range(chance.randint(0, 14))
        )
        crashes = sorted(chance.randrange(1, 90) for _ in range(chance.choice((0, 0, 1, 1, 2, 4))))
        plan = cls(
            seed,
            chance.choice(list(APPS)),
            chance.randint(2, 5),
            chance.randint(1, 4),
            chance.choice((5, 300, 300, 300, 300, 300, 300, 80_000)),
            tuple(troubles),
            tuple(crashes),
            speculates=chance.random() < 0.5,
            condenses=chance.random() < 0.5,
            relays=chance.choice((0, 0, 0, 0, 1, 2)),
            compression=chance.choice((*[Compression.NONE] * 4, *Compression)),
        )
        return plan.of_sites() if chance.random() < 0.2 else plan

    def of_sites(self) -> Plan:
        """The same with sites, whose updates do not depend on which process has lost what."""
        whole = Compression.NONE
        return replace(self, workers=self.clients, relays=0, compression=whole, sites=True)

    def of_late(self) -> Plan:
        """The same with updates that are late, of an app that shows which have counted."""
        whole = Compression.NONE
        return replace(self, app="adds one", relays=0, compression=whole, sites=False, late=True)

    @property
    def cohort(self) -> Cohort | None:
        """What the run asks of each round."""
        if not self.late:
            return None
        half = max(1, self.clients // 2) / self.clients
        return Cohort(fraction=half, over_selection=10.0, late="fold", max_staleness=1000)

    def undisturbed(self) -> Plan:
        """The same app and clients, with one worker and no trouble."""
        same = {"compression": self.compression}  # which changes the model
        return Plan(0, self.app, self.clients, 1, self.size, (), (), **same)

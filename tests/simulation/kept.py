"""Plans of seeds that once failed, by what they found.

Whole, since a seed stands for another plan when how plans are made is changed.
"""

from tests.simulation.world import Plan

KEPT = {
    "a server numbered its calls as its predecessor did, so that a worker's sum mixed both": Plan(
        seed=142,
        app="FedAvg",
        clients=5,
        workers=1,
        size=300,
        troubles=((0.5899, "server"), (4.5158, "worker"), (9.478, "half open"), (15.0836, "block")),
        crashes=(),
    ),
    "a worker whose link stood still for 20 s ended for good": Plan(
        seed=28,
        app="own loop",
        clients=4,
        workers=2,
        size=80_000,
        troubles=(
            (0.0155, "block"),
            (0.0967, "executor"),
            (0.3511, "executor"),
            (0.5306, "block"),
            (0.9102, "executor"),
            (7.3545, "block"),
            (10.1415, "block"),
            (11.6635, "block"),
            (19.3943, "executor"),
        ),
        crashes=(17, 23, 65, 67),
    ),
    "a journal whose first bytes a crash had torn was taken for another version's": Plan(
        seed=619,
        app="FedMedian",
        clients=3,
        workers=3,
        size=80_000,
        troubles=(
            (0.0492, "block"),
            (0.1804, "block"),
            (6.4493, "block"),
            (8.3266, "block"),
            (9.1501, "block"),
            (11.1567, "block"),
            (15.6889, "block"),
        ),
        crashes=(3, 42, 79, 84),
    ),
    "a Hello of a killed worker came late, and sent its successor home": Plan(
        seed=5590,
        app="FedAvg",
        clients=3,
        workers=1,
        size=300,
        troubles=(
            (0.0935, "block"),
            (1.7675, "worker"),
            (3.8769, "worker"),
            (6.8637, "block"),
            (7.0837, "cut"),
            (8.9232, "worker"),
            (11.9725, "worker"),
            (12.768, "block"),
            (17.8518, "block"),
            (19.1338, "block"),
        ),
        crashes=(19, 40),
    ),
}

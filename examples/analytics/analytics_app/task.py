"""The clients' data and the statistics over it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_wine

FEATURE_NAMES: list[str] = load_wine().feature_names


@dataclass(frozen=True)
class Summary:
    """Statistics of some rows; summaries of disjoint rows can be merged.

    count: number of rows.
    total, total_of_squares, minimum, maximum: float64 arrays of shape (features,), in
    the unit of each feature (squared for total_of_squares).
    """

    count: int
    total: NDArray[np.float64]
    total_of_squares: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of every feature."""
        return self.total / self.count

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation of every feature."""
        variance = self.total_of_squares / self.count - self.mean**2
        # Rounding can push the variance of a constant feature below zero.
        return np.sqrt(np.maximum(variance, 0.0))


def client_rows(partition_id: int, num_partitions: int) -> NDArray[np.float64]:
    """Return one client's rows, shape (n, 13).

    The 178 wines are sorted by cultivar and cut into consecutive blocks, so the clients'
    own statistics differ a lot from the global ones.
    """
    return np.array_split(load_wine().data, num_partitions)[partition_id]


def summarize(rows: NDArray[np.float64]) -> Summary:
    """Summarise rows of shape (n, features); n may be 0."""
    return Summary(
        count=len(rows),
        total=rows.sum(axis=0),
        total_of_squares=(rows**2).sum(axis=0),
        minimum=rows.min(axis=0, initial=np.inf),
        maximum=rows.max(axis=0, initial=-np.inf),
    )


def merge(summaries: list[Summary]) -> Summary:
    """Combine the summaries of disjoint sets of rows into the summary of all rows."""
    return Summary(
        count=sum(summary.count for summary in summaries),
        total=np.sum([summary.total for summary in summaries], axis=0),
        total_of_squares=np.sum([summary.total_of_squares for summary in summaries], axis=0),
        minimum=np.min([summary.minimum for summary in summaries], axis=0),
        maximum=np.max([summary.maximum for summary in summaries], axis=0),
    )


def histograms(
    rows: NDArray[np.float64],
    minimum: NDArray[np.float64],
    maximum: NDArray[np.float64],
    num_bins: int,
) -> NDArray[np.int64]:
    """Count rows in equally wide bins between each feature's minimum and maximum.

    rows: shape (n, features); minimum and maximum: shape (features,).
    Returns counts of shape (features, num_bins).
    """
    columns = zip(rows.T, minimum, maximum, strict=True)
    return np.array(
        [np.histogram(column, bins=num_bins, range=(low, high))[0] for column, low, high in columns]
    )

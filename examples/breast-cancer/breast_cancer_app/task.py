"""Data partitions, feature scaling and the logistic regression model."""

import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

NUM_FEATURES = 30
CLASSES = np.array([0, 1])
TEST_FRACTION = 0.2

# Independent of the run config, so results of different partitions stay comparable.
TEST_SPLIT_SEED = 42


class Samples(NamedTuple):
    """Labelled measurements.

    features: float64 array of shape (n, 30), in the units of the data set.
    labels: int64 array of shape (n,), 0 = malignant, 1 = benign.
    """

    features: NDArray[np.float64]
    labels: NDArray[np.int64]


class Scaling(NamedTuple):
    """Per-feature standardisation.

    mean, std: float64 arrays of shape (30,), in the units of the data set.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def apply(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map features (n, 30) to features without unit."""
        return (features - self.mean) / self.std


@lru_cache(maxsize=1)
def train_and_test_samples() -> tuple[Samples, Samples]:
    """Split the 569 samples into the clients' pool (80 %) and the central test set (20 %)."""
    features, labels = load_breast_cancer(return_X_y=True)
    train_rows, test_rows = train_test_split(
        np.arange(len(labels)),
        test_size=TEST_FRACTION,
        stratify=labels,
        random_state=TEST_SPLIT_SEED,
    )
    return (
        Samples(features[train_rows], labels[train_rows]),
        Samples(features[test_rows], labels[test_rows]),
    )


def client_samples(partition_id: int, num_partitions: int, seed: int) -> Samples:
    """Return one client's share of the pool, with both classes in it.

    The rows of each class are shuffled and dealt out in turn, because scikit-learn
    cannot fit a classifier on a single class.
    """
    pool, _ = train_and_test_samples()
    if num_partitions > np.bincount(pool.labels).min():
        raise ValueError(f"too few samples of one class for {num_partitions} clients")
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [
            rng.permutation(np.flatnonzero(pool.labels == label))[partition_id::num_partitions]
            for label in CLASSES
        ]
    )
    return Samples(pool.features[rows], pool.labels[rows])


def initial_arrays() -> ArrayRecord:
    """Return the all-zero model: coef of shape (1, 30) and intercept of shape (1,)."""
    return ArrayRecord([np.zeros((1, NUM_FEATURES)), np.zeros(1)])


def model_from_arrays(
    arrays: ArrayRecord, max_iter: int = 1, inverse_regularization: float = 1.0
) -> LogisticRegression:
    """Build a model that predicts with the given arrays and continues training from them."""
    model = LogisticRegression(C=inverse_regularization, max_iter=max_iter, warm_start=True)
    model.coef_, model.intercept_ = arrays.to_numpy_ndarrays()
    model.classes_ = CLASSES
    return model


def model_to_arrays(model: LogisticRegression) -> ArrayRecord:
    """Return coef of shape (1, 30) and intercept of shape (1,) as an ArrayRecord."""
    return ArrayRecord([model.coef_, model.intercept_])


def fit(model: LogisticRegression, samples: Samples, scaling: Scaling) -> None:
    """Train the model in place for at most `max_iter` iterations."""
    with warnings.catch_warnings():
        # Stopping early is intended: the server averages unfinished local models.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaling.apply(samples.features), samples.labels)

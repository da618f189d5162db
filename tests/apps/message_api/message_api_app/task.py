"""A linear regression that recovers known weights."""

import numpy as np
from numpy.typing import NDArray

TRUE_WEIGHTS: NDArray[np.float64] = np.array([1.5, -2.0, 0.5])
NUM_ROWS = 40
BATCH_SIZE = 8
NOISE = 0.01

Data = tuple[NDArray[np.float64], NDArray[np.float64]]


def load_data(partition: int, seed: int) -> Data:
    """Return features (40, 3) and noisy targets (40,) of one partition."""
    rng = np.random.default_rng([seed, partition])
    features = rng.normal(size=(NUM_ROWS, len(TRUE_WEIGHTS)))
    return features, features @ TRUE_WEIGHTS + NOISE * rng.normal(size=NUM_ROWS)


def fit(
    weights: NDArray[np.float64], data: Data, epochs: int, learning_rate: float
) -> NDArray[np.float64]:
    """Return weights (3,) after some epochs of SGD on the squared error."""
    features, targets = data
    for _ in range(epochs):
        # NumPy's global generator on purpose: a runtime that seeds it makes runs repeatable.
        for batch in np.split(np.random.permutation(NUM_ROWS), NUM_ROWS // BATCH_SIZE):
            residual = features[batch] @ weights - targets[batch]
            weights = weights - learning_rate * features[batch].T @ residual / BATCH_SIZE
    return weights


def mean_squared_error(weights: NDArray[np.float64], data: Data) -> float:
    """Return the mean squared error of weights (3,)."""
    features, targets = data
    return float(np.mean((features @ weights - targets) ** 2))

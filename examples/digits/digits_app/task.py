"""Model, data partitions and the training and evaluation loops."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

NUM_CLASSES = 10
TEST_FRACTION = 0.2
EVAL_FRACTION = 0.1
MIN_CLIENT_IMAGES = 5

# The test set and the initial weights never depend on the run config, so results of
# different partitions stay comparable.
TEST_SPLIT_SEED = 42
INITIAL_WEIGHTS_SEED = 42


class Images(NamedTuple):
    """Labelled images.

    pixels: float32 tensor of shape (n, 1, 8, 8), values in [-1, 1].
    labels: int64 tensor of shape (n,), values in 0..9.
    """

    pixels: Tensor
    labels: Tensor


class DigitsCNN(nn.Module):
    """Two convolutions and two linear layers, about 38 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, NUM_CLASSES),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (n, 1, 8, 8) to unnormalised class scores (n, 10)."""
        return self.classifier(self.features(pixels))


def initial_model() -> DigitsCNN:
    """Return the model that every run starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIAL_WEIGHTS_SEED)
        return DigitsCNN()


@lru_cache(maxsize=1)
def train_and_test_images() -> tuple[Images, Images]:
    """Split the 1797 images into the clients' pool (80 %) and the central test set (20 %)."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().div(8.0).sub(1.0).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train_rows, test_rows = train_test_split(
        np.arange(len(labels)),
        test_size=TEST_FRACTION,
        stratify=digits.target,
        random_state=TEST_SPLIT_SEED,
    )
    return (
        Images(pixels[train_rows], labels[train_rows]),
        Images(pixels[test_rows], labels[test_rows]),
    )


def dirichlet_partitions(
    labels: NDArray[np.int64], num_partitions: int, alpha: float, seed: int
) -> list[NDArray[np.int64]]:
    """Distribute rows over clients so that the label mix differs between them.

    For every class, the share of each client is drawn from a symmetric Dirichlet
    distribution: a small alpha gives most of a class to few clients, a large alpha
    approaches an even split.

    labels: class of every row, shape (n,).
    Returns one array of row numbers per client; together they hold each row once, and
    each holds at least min(MIN_CLIENT_IMAGES, n // num_partitions) rows.
    """
    if not 1 <= num_partitions <= len(labels) // 2:
        raise ValueError(f"cannot split {len(labels)} images over {num_partitions} clients")
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(num_partitions)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(num_partitions, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        # Without this shuffle the rounding would favour the same clients in every class.
        for part, chunk in zip(rng.permutation(num_partitions), np.split(rows, cuts), strict=True):
            parts[part].extend(chunk.tolist())
    _top_up_small_parts(parts, min(MIN_CLIENT_IMAGES, len(labels) // num_partitions), rng)
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def _top_up_small_parts(parts: list[list[int]], minimum: int, rng: np.random.Generator) -> None:
    """Move random rows from the largest parts until every part holds `minimum` rows."""
    for part in parts:
        while len(part) < minimum:
            largest = max(parts, key=len)
            part.append(largest.pop(int(rng.integers(len(largest)))))


def client_images(
    partition_id: int, num_partitions: int, alpha: float, seed: int
) -> tuple[Images, Images]:
    """Return one client's training images and its held-back evaluation images."""
    pool, _ = train_and_test_images()
    parts = dirichlet_partitions(pool.labels.numpy(), num_partitions, alpha, seed)
    rows = np.random.default_rng([seed, partition_id]).permutation(parts[partition_id])
    num_eval = max(1, round(EVAL_FRACTION * len(rows)))
    train_rows, eval_rows = rows[num_eval:], rows[:num_eval]
    return (
        Images(pool.pixels[train_rows], pool.labels[train_rows]),
        Images(pool.pixels[eval_rows], pool.labels[eval_rows]),
    )


def train(
    model: nn.Module, images: Images, epochs: int, learning_rate: float, batch_size: int
) -> float:
    """Train the model in place with SGD and return the mean loss of the last epoch."""
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    num_images = len(images.labels)
    model.train()
    mean_loss = 0.0
    for _ in range(epochs):
        total_loss = 0.0
        for batch in torch.randperm(num_images).split(batch_size):
            optimizer.zero_grad()
            loss = loss_fn(model(images.pixels[batch]), images.labels[batch])
            loss.backward()
            optimizer.step()
            total_loss += loss.item() * len(batch)
        mean_loss = total_loss / num_images
    return mean_loss


@torch.no_grad()
def evaluate(model: nn.Module, images: Images) -> tuple[float, float]:
    """Return the mean cross-entropy loss and the accuracy in [0, 1]."""
    model.eval()
    scores = model(images.pixels)
    loss = nn.functional.cross_entropy(scores, images.labels).item()
    accuracy = (scores.argmax(dim=1) == images.labels).float().mean().item()
    return loss, accuracy

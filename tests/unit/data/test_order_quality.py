"""Batches of sorted data are composed as if they were drawn at random.

The worst case of an order: a source whose chunks lie sorted into equal classes (by date, by site, by language). A batch draws without
replacement, so the number of its chunks of one class has a hypergeometric distribution where the order is as good as random.
"""

from collections.abc import Callable

import numpy as np
import pytest

from pretrain.data.order import ChunkOrder

CHUNKS, CLASSES, BATCH = 160_000, 16, 256
EPOCHS = 4
BATCHES = CHUNKS // BATCH

Order = Callable[[int], np.ndarray]
"""The chunks of an epoch, in the order in which they are read: int64 [CHUNKS]."""


def ours(seed: int) -> Order:
    """The trainer's order, which works on tokens: one chunk is given up, and an epoch may begin a few tokens later."""
    order = ChunkOrder(num_tokens=(CHUNKS + 1) * 2 + 1, seq_length=2, key=f"{seed}/source", name="source")
    assert order.chunks_per_epoch == CHUNKS
    return lambda epoch: order.start_tokens(np.arange(CHUNKS) + epoch * CHUNKS) // 2


def drawn(seed: int) -> Order:
    """Drawn at random, which the bounds must let pass."""
    return lambda epoch: np.random.default_rng([seed, epoch]).permutation(CHUNKS)


def buffered(seed: int) -> Order:
    """A weak order: the next of a buffer of 10,000, as readers of streams shuffle."""

    def epoch_of(epoch: int) -> np.ndarray:
        random, buffer, out = np.random.default_rng([seed, epoch]), np.arange(10_000), np.empty(CHUNKS, np.int64)
        for n, (place, coming) in enumerate(
            zip(random.integers(0, 10_000, CHUNKS), range(10_000, CHUNKS + 10_000), strict=True)
        ):
            out[n], buffer[place] = buffer[place], coming
        return np.minimum(out, CHUNKS - 1)

    return epoch_of


def strided(seed: int) -> Order:
    """A weak order: a multiple of the index, modulo the size. Batches are composed too evenly."""
    return lambda epoch: (np.arange(CHUNKS) * 98_317 + seed + epoch) % CHUNKS


def slowly_turning(seed: int) -> Order:
    """A weak order: each batch draws at random around a place that moves on."""

    def epoch_of(epoch: int) -> np.ndarray:
        noise = np.random.default_rng([seed, epoch]).normal(0, CHUNKS, CHUNKS)
        return np.argsort(np.arange(CHUNKS) + noise, kind="stable")

    return epoch_of


def counts(order: Order) -> np.ndarray:
    """Chunks of each class in each batch: [EPOCHS, BATCHES, CLASSES]."""
    chunks = np.stack([order(epoch) for epoch in range(EPOCHS)])
    batch = np.arange(EPOCHS * BATCHES).repeat(BATCH)
    flat = batch * CLASSES + chunks.ravel() * CLASSES // CHUNKS
    return np.bincount(flat, minlength=EPOCHS * BATCHES * CLASSES).reshape(EPOCHS, BATCHES, CLASSES)


def variance_ratio(counted: np.ndarray) -> float:
    """Variance of the counts over the hypergeometric distribution's."""
    share = 1 / CLASSES
    expected = BATCH * share * (1 - share) * (CHUNKS - BATCH) / (CHUNKS - 1)
    return float(np.mean((counted - BATCH * share) ** 2) / expected)


def chi_squared(counted: np.ndarray) -> float:
    """Pearson's statistic of the classes in an epoch's first tenth, CLASSES - 1 degrees of freedom; the mean of all epochs."""
    first = counted[:, : BATCHES // 10].sum(axis=1)
    drawn = BATCHES // 10 * BATCH
    expected = drawn / CLASSES
    return float(np.mean(((first - expected) ** 2 / expected).sum(axis=1) * (CHUNKS - 1) / (CHUNKS - drawn)))


def autocorrelation(counted: np.ndarray) -> float:
    """The largest correlation, over lags of 1 to 8 batches, of the mean class of a batch with a later batch's."""
    means = (counted * np.arange(CLASSES)).sum(axis=2) / BATCH
    means = means - means.mean()
    lags = [float((means[:, lag:] * means[:, :-lag]).mean() / (means**2).mean()) for lag in range(1, 9)]
    return max(lags, key=abs)


def is_as_good_as_random(order: Order) -> bool:
    """Within four standard errors of each statistic."""
    counted = counts(order)
    samples, degrees = EPOCHS * BATCHES, CLASSES - 1
    variance = abs(variance_ratio(counted) - 1) < 4 * (2 / (samples * degrees)) ** 0.5
    first_tenth = abs(chi_squared(counted) - degrees) < 4 * (2 * degrees / EPOCHS) ** 0.5
    return variance and first_tenth and abs(autocorrelation(counted)) < 4 / samples**0.5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", [ours, drawn])
def test_batches_of_sorted_data_are_composed_as_if_drawn_at_random(order: Callable[[int], Order], seed: int) -> None:
    assert is_as_good_as_random(order(seed))


@pytest.mark.parametrize("order", [buffered, strided, slowly_turning])
def test_a_weak_order_is_told_from_a_random_one(order: Callable[[int], Order]) -> None:
    assert not is_as_good_as_random(order(1))

"""The order of a source's chunks."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fanal.splitmix import mix64
from pretrain.data.order import ROUNDS, ChunkOrder, ChunkOrders, permute, random_keys, unpermute


def permuted(size: int, key: str, indices: np.ndarray | None = None) -> np.ndarray:
    indices = np.arange(size) if indices is None else indices
    keys = random_keys(key, ROUNDS)[:, None]
    return permute(indices.astype(np.uint64), np.full(len(indices), size, np.uint64), keys).astype(np.int64)


def placed_by_many_keys(size: int, trials: int, indices: np.ndarray) -> np.ndarray:
    """Where each of ``trials`` keys puts these indices: [trials, indices]."""
    keys = np.stack([random_keys(f"{trial}", ROUNDS) for trial in range(trials)], axis=1).repeat(len(indices), axis=1)
    sizes = np.full(trials * len(indices), size, np.uint64)
    return permute(np.tile(indices, trials).astype(np.uint64), sizes, keys).reshape(trials, -1).astype(np.int64)


def feistel_by_hand(index: int, size: int, keys: list[int]) -> int:
    """The definition of ``permute``, one index and Python's integers."""
    bits, word = max(6, (size - 1).bit_length()), 2**64 - 1
    left_bits, right_bits = bits // 2, bits - bits // 2

    def mix(z: int) -> int:
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & word
        return z ^ z >> 31

    while True:
        left, right = index >> right_bits, index % 2**right_bits
        for key, changes_left in zip(keys, itertools.cycle([True, False]), strict=False):
            if changes_left:
                left ^= mix((right + key) & word) % 2**left_bits
            else:
                right ^= mix((left + key) & word) % 2**right_bits
        index = left << right_bits | right
        if index < size:
            return index


@given(size=st.integers(1, 5000), key=st.text(max_size=8))
@example(size=1, key="")
@example(size=2, key="")
@example(size=3, key="")
@example(size=4097, key="")
@settings(max_examples=60, deadline=None)
def test_a_permutation_visits_everything_once(size: int, key: str) -> None:
    assert sorted(permuted(size, key).tolist()) == list(range(size))


@given(size=st.integers(1, 2**53), key=st.text(max_size=8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_arrays_follow_the_definition_in_python_s_integers(size: int, key: str, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    keys = random_keys(key, ROUNDS).tolist()
    assert permuted(size, key, np.array(indices)).tolist() == [feistel_by_hand(i, size, keys) for i in indices]


@given(size=st.integers(1, 2**53), key=st.text(max_size=8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_way_back_leads_to_where_an_index_came_from(size: int, key: str, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4)), np.uint64)
    sizes, keys = np.full(len(indices), size, np.uint64), random_keys(key, ROUNDS)[:, None]
    assert unpermute(permute(indices, sizes, keys), sizes, keys).tolist() == indices.tolist()


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_every_order_of_a_tiny_source_comes_up_about_as_often(size: int) -> None:
    trials = 12_000
    orders = Counter(map(tuple, placed_by_many_keys(size, trials, np.arange(size)).tolist()))
    possible = int(np.prod(np.arange(1, size + 1)))
    expected = trials / possible
    counts = np.array([*orders.values(), *[0] * (possible - len(orders))])
    chi_squared, degrees = ((counts - expected) ** 2 / expected).sum(), possible - 1
    assert abs(chi_squared - degrees) < 5 * (2 * degrees) ** 0.5 + 5, "as often as chance has it"


@pytest.mark.parametrize("size", [7, 64, 100, 1000])
def test_every_index_goes_everywhere_about_as_often(size: int) -> None:
    trials, bins = 4000, 7
    placed = placed_by_many_keys(size, trials, np.array([0, 1, size - 1]))
    for column in placed.T:
        counts = np.bincount(column * bins // size, minlength=bins)
        expected = trials * np.bincount(np.arange(size) * bins // size, minlength=bins) / size
        assert ((counts - expected) ** 2 / expected).sum() < 30, "chi squared of 6 degrees: 1 in 25,000"
    neighbours = np.corrcoef(placed[:, 0], placed[:, 1])[0, 1] * (size - 1) + 1  # expected correlation: -1 / (size - 1)
    assert abs(neighbours) < (size - 1) * 5 / trials**0.5


def test_one_bit_of_the_input_moves_each_bit_of_the_output_half_the_time() -> None:
    values = random_keys("a", 8).repeat(256) + np.arange(2048, dtype=np.uint64)
    for bit in range(64):
        changed = mix64(values) ^ mix64(values ^ (np.uint64(1) << np.uint64(bit)))
        rates = [(changed >> np.uint64(out) & np.uint64(1)).mean() for out in range(64)]
        assert min(rates) > 0.4 and max(rates) < 0.6, f"input bit {bit}"


def test_keys_give_orders_that_differ_and_none_is_the_identity() -> None:
    orders = {tuple(permuted(100, f"{key}").tolist()) for key in range(20)}
    assert len(orders) == 20 and tuple(range(100)) not in orders


def test_a_permutation_of_a_trillion_costs_a_few_turns() -> None:
    assert len(set(permuted(10**12, "k", np.arange(1000)).tolist())) == 1000


def test_the_order_is_the_same_on_every_machine() -> None:
    """Written down once: another order would change every run that is under way."""
    assert permuted(1000, "k", np.arange(6)).tolist() == [213, 207, 662, 673, 352, 510]
    chunks = ChunkOrder(num_tokens=10**9, seq_length=2048, key="42/a", name="a")
    assert chunks.start_tokens(np.array([0, 1, 10**7])).tolist() == [89360347, 716605403, 950598824]


def test_an_index_outside_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match=r"index 5 is outside range\(5\)"):
        permuted(5, "k", np.array([5]))


def order(num_tokens: int, seq_length: int = 8, shuffle: bool = True, key: str = "42/a") -> ChunkOrder:
    return ChunkOrder(num_tokens=num_tokens, seq_length=seq_length, key=key, name=key, shuffle=shuffle)


def starts_of(chunks: ChunkOrder, epoch: int = 0) -> list[int]:
    count = chunks.chunks_per_epoch
    return chunks.start_tokens(np.arange(epoch * count, (epoch + 1) * count)).tolist()


@given(num_tokens=st.integers(9, 2000), seq_length=st.integers(1, 8), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_an_epoch_visits_every_chunk_once_and_stays_inside(num_tokens: int, seq_length: int, epoch: int) -> None:
    starts = sorted(starts_of(order(num_tokens, seq_length), epoch))
    offset = starts[0]
    assert starts == [offset + index * seq_length for index in range(len(starts))], (
        "chunks neither overlap nor leave gaps"
    )
    assert offset >= 0 and starts[-1] + seq_length + 1 <= num_tokens


@given(
    sizes=st.lists(st.tuples(st.integers(9, 3000), st.booleans()), min_size=1, max_size=9),
    asked=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 10**9)), min_size=1, max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_many_sources_at_once_give_what_each_gives_alone(
    sizes: list[tuple[int, bool]], asked: list[tuple[int, int]]
) -> None:
    orders = [order(size, shuffle=shuffle, key=f"{i}") for i, (size, shuffle) in enumerate(sizes)]
    sources, ranks = np.array([(source % len(orders), rank) for source, rank in asked], np.int64).T
    together = ChunkOrders(orders).start_tokens(sources, ranks).tolist()
    assert together == [orders[s].start_token(r) for s, r in zip(sources.tolist(), ranks.tolist(), strict=True)]


@given(
    sizes=st.lists(st.tuples(st.integers(9, 3000), st.booleans()), min_size=1, max_size=9),
    source=st.integers(0, 8),
    draws=st.lists(st.integers(0, 10**9), min_size=1, max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_a_chunk_leads_back_to_its_draw(sizes: list[tuple[int, bool]], source: int, draws: list[int]) -> None:
    orders = [order(size, shuffle=shuffle, key=f"{i}") for i, (size, shuffle) in enumerate(sizes)]
    many, source = ChunkOrders(orders), source % len(orders)
    sources = np.full(len(draws), source)
    starts, epochs = many.start_tokens(sources, np.array(draws)), many.epochs(sources, np.array(draws))
    chunks, rest = np.divmod(starts - many.offsets(source, epochs), orders[source].stride)
    assert not rest.any() and many.draws_of(source, epochs, chunks).tolist() == draws


def test_epochs_differ_in_order_and_in_where_chunks_are_cut() -> None:
    epochs = [starts_of(order(10_000), epoch) for epoch in range(6)]
    assert len({min(starts) for starts in epochs}) > 1, "the offset moves"
    assert len({tuple(start - min(starts) for start in starts) for starts in epochs}) == 6, "the order changes"


def test_at_most_two_chunks_of_tokens_are_left_out_of_an_epoch() -> None:
    chunks = order(10_000)
    assert 10_000 - chunks.chunks_per_epoch * 8 <= 2 * 8


def test_sources_of_one_size_are_not_in_step() -> None:
    assert starts_of(order(10_000))[:20] != starts_of(order(10_000, key="42/b"))[:20]


def test_validation_chunks_lie_in_a_row_from_the_first_token() -> None:
    chunks = order(100, shuffle=False)
    assert chunks.chunks_per_epoch == 12
    assert chunks.start_tokens(np.arange(13)).tolist() == [*range(0, 96, 8), 0]


def test_a_source_shorter_than_a_sample_is_refused_with_a_length_that_works() -> None:
    says = r"data.seq_length \(8\) needs .* = 9 tokens and 42/a has 8; a longer source works, and so does data.seq_length=4$"
    with pytest.raises(ValueError, match=says):
        order(8)
    assert order(8, seq_length=4).chunks_per_epoch == 1
    with pytest.raises(ValueError, match=r"42/a has 1; a longer source works$"):
        order(1)


def test_every_token_but_the_first_and_the_slack_is_predicted_once_in_an_epoch() -> None:
    chunks = order(1000)
    predicted = sorted(start + 1 + i for start in starts_of(chunks) for i in range(8))
    assert predicted == list(range(predicted[0], predicted[0] + 8 * chunks.chunks_per_epoch))


def test_the_seed_changes_the_order() -> None:
    assert starts_of(order(10_000, key="42/a"))[:20] != starts_of(order(10_000, key="43/a"))[:20]

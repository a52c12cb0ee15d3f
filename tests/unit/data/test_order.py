"""The order of a source's chunks."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pretrain.data.order import ChunkOrder, permute

KEY = bytes(range(16))


@given(size=st.integers(1, 5000), key=st.binary(min_size=16, max_size=16))
@example(size=1, key=KEY)
@example(size=2, key=KEY)
@example(size=3, key=KEY)
@example(size=4097, key=KEY)
@settings(max_examples=40, deadline=None)
def test_a_permutation_visits_everything_once(size: int, key: bytes) -> None:
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


def test_keys_give_orders_that_differ_and_none_is_the_identity() -> None:
    orders = {tuple(permute(index, 100, bytes([key]) * 16) for index in range(100)) for key in range(20)}
    assert len(orders) == 20 and tuple(range(100)) not in orders


def test_a_permutation_of_a_trillion_costs_a_few_turns() -> None:
    assert len({permute(index, 10**12, KEY) for index in range(1000)}) == 1000


def test_the_order_is_the_same_on_every_machine() -> None:
    """Written down once: another order would change every run that is under way."""
    assert [permute(index, 1000, KEY) for index in range(6)] == [808, 144, 231, 830, 455, 914]


def test_an_index_outside_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match=r"index 5 is outside range\(5\)"):
        permute(5, 5, KEY)


def order(num_tokens: int, seq_length: int = 8, shuffle: bool = True, key: str = "42/a") -> ChunkOrder:
    return ChunkOrder(num_tokens=num_tokens, seq_length=seq_length, key=key, shuffle=shuffle)


@given(num_tokens=st.integers(9, 2000), seq_length=st.integers(1, 8), epoch=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_visits_every_chunk_once_and_stays_inside(num_tokens: int, seq_length: int, epoch: int) -> None:
    chunks = order(num_tokens, seq_length)
    count = chunks.chunks_per_epoch
    starts = sorted(chunks.start_token(epoch * count + index) for index in range(count))
    offset = starts[0]
    assert starts == [offset + index * seq_length for index in range(count)], "chunks neither overlap nor leave gaps"
    assert offset >= 0 and starts[-1] + seq_length + 1 <= num_tokens


def test_epochs_differ_in_order_and_in_where_chunks_are_cut() -> None:
    chunks = order(10_000)
    count = chunks.chunks_per_epoch
    epochs = [[chunks.start_token(epoch * count + index) for index in range(count)] for epoch in range(6)]
    assert len({min(starts) for starts in epochs}) > 1, "the offset moves"
    assert len({tuple(start - min(starts) for start in starts) for starts in epochs}) == 6, "the order changes"


def test_at_most_two_chunks_of_tokens_are_left_out_of_an_epoch() -> None:
    chunks = order(10_000)
    assert 10_000 - chunks.chunks_per_epoch * 8 <= 2 * 8


def test_sources_of_one_size_are_not_in_step() -> None:
    assert [order(10_000).start_token(i) for i in range(20)] != [
        order(10_000, key="42/b").start_token(i) for i in range(20)
    ]


def test_held_out_chunks_lie_in_a_row_from_the_first_token() -> None:
    chunks = order(100, shuffle=False)
    assert chunks.chunks_per_epoch == 12
    assert [chunks.start_token(index) for index in range(13)] == [*range(0, 96, 8), 0]


def test_a_source_shorter_than_a_sample_is_refused_with_a_length_that_works() -> None:
    with pytest.raises(
        ValueError, match=r"data.seq_length \(8\) needs .* = 9 tokens and 42/a has 8; data.seq_length=7 works"
    ):
        order(8)
    assert order(8, seq_length=7).chunks_per_epoch == 1


def test_every_token_but_the_first_and_the_slack_is_predicted_once_in_an_epoch() -> None:
    chunks = order(1000)
    count = chunks.chunks_per_epoch
    predicted = sorted(chunks.start_token(rank) + 1 + i for rank in range(count) for i in range(8))
    assert predicted == list(range(predicted[0], predicted[0] + 8 * count))


def test_the_seed_changes_the_order() -> None:
    assert [order(10_000, key="42/a").start_token(i) for i in range(20)] != [
        order(10_000, key="43/a").start_token(i) for i in range(20)
    ]

"""Parts of a sequence: each position belongs to one rank, ranks see equally many pairs, and parts are put together again."""

import pytest
import torch

from pretrain.parallel.sequence_chunks import by_rank, chunks_of, in_order, part_of

RANKS = [1, 2, 3, 4, 8]


@pytest.mark.parametrize("num_ranks", RANKS)
def test_every_chunk_belongs_to_one_rank(num_ranks: int) -> None:
    chunks = [chunk for rank in range(num_ranks) for chunk in chunks_of(rank, num_ranks)]
    assert sorted(chunks) == list(range(2 * num_ranks))
    assert all(first < second for first, second in (chunks_of(rank, num_ranks) for rank in range(num_ranks)))


def test_parts_are_those_of_a_sequence_written_out() -> None:
    assert [part_of(torch.arange(8), rank, 2, dim=0).tolist() for rank in (0, 1)] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert part_of(torch.arange(12), 1, 3, dim=0).tolist() == [2, 3, 8, 9]


@pytest.mark.parametrize("num_ranks", RANKS)
def test_each_rank_has_as_many_pairs_of_a_query_and_a_key_that_it_sees(num_ranks: int) -> None:
    length = 4 * 2 * num_ranks
    seen = [int((part_of(torch.arange(length), rank, num_ranks, dim=0) + 1).sum()) for rank in range(num_ranks)]
    assert len(set(seen)) == 1 and sum(seen) == length * (length + 1) // 2


@pytest.mark.parametrize("num_ranks", RANKS)
@pytest.mark.parametrize("dim", [0, 1, -2])
def test_a_part_is_cut_out_of_any_dimension(num_ranks: int, dim: int) -> None:
    length = 2 * num_ranks * 3
    places = torch.arange(length)
    whole = places.view([length if axis == dim % 4 else 1 for axis in range(4)]).expand(
        *(length if axis == dim % 4 else 2 for axis in range(4))
    )
    for rank in range(num_ranks):
        part, expected = part_of(whole, rank, num_ranks, dim=dim), part_of(places, rank, num_ranks, dim=0)
        assert part.shape[dim] == length // num_ranks
        assert torch.equal(part.movedim(dim, 0)[:, 0, 0, 0], expected)


@pytest.mark.parametrize("num_ranks", RANKS[1:])
def test_parts_of_all_ranks_are_the_sequence_again(num_ranks: int) -> None:
    keys, values = torch.randn(2, 2 * num_ranks * 3, 2, 5)
    parts = torch.stack([part_of(keys, rank, num_ranks, dim=0) for rank in range(num_ranks)])
    assert torch.equal(in_order(parts), keys)
    assert not torch.equal(parts.flatten(0, 1), keys), "the order of ranks is another one"
    both = by_rank((keys, values), num_ranks)
    assert both.shape == (num_ranks, 2, 6, 2, 5) and both.is_contiguous()
    for rank in range(num_ranks):
        assert torch.equal(both[rank, 0], part_of(keys, rank, num_ranks, dim=0))
        assert torch.equal(both[rank, 1], part_of(values, rank, num_ranks, dim=0))
    assert torch.equal(in_order(both[:, 1]), values)

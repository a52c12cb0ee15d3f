"""The largest attention logit, against all logits in memory."""

import pytest
import torch

from fanal.kernels.attention_logits import largest_logit
from fanal.kernels.reference import document_ids

STARTS = torch.tensor([0, 5, 37, 40, 51, 80], dtype=torch.int32)  # two rows of 40
SEQ, BATCH = 40, 2


def whole(
    query: torch.Tensor, key: torch.Tensor, scale: float, starts: torch.Tensor | None, window: int | None
) -> torch.Tensor:
    """All logits that are seen, and -inf for the others, [b, n, s, s]."""
    seq, batch, heads, _ = query.shape
    expanded = key.repeat_interleave(heads // key.shape[2], dim=2)
    logits = torch.einsum("sbnd,tbnd->bnst", query, expanded) * scale
    seen = torch.ones(seq, seq, dtype=torch.bool).tril()
    if window is not None:
        seen = seen & ~torch.ones(seq, seq, dtype=torch.bool).tril(-window)
    seen = seen.expand(batch, 1, seq, seq)
    if starts is not None:
        ids = document_ids(starts, batch, seq)
        seen = seen & (ids[:, None, :, None] == ids[:, None, None, :])
    return logits.masked_fill(~seen, float("-inf"))


def inputs(seed: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(SEQ, BATCH, 8, 16, generator=generator),
        torch.randn(SEQ, BATCH, groups, 16, generator=generator),
    )


@pytest.mark.parametrize("queries", [SEQ, 13, 1])
@pytest.mark.parametrize("most_logits", [1, 3000, 2**25], ids=["a row", "some rows", "all"])
@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize("starts", [None, STARTS], ids=["rows", "documents"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_it_is_the_largest_of_all_that_are_seen(
    groups: int, starts: torch.Tensor | None, window: int | None, most_logits: int, queries: int
) -> None:
    for seed in range(3):
        query, key = inputs(seed, groups)
        expected = whole(query, key, 0.25, starts, window)[:, :, -queries:].amax()
        query = query[-queries:]
        found = largest_logit(query, key, 0.25, starts, window, most_logits=most_logits)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        capped = largest_logit(query, key, 0.25, starts, window, 0.5, most_logits=most_logits)
        torch.testing.assert_close(capped, 0.5 * torch.tanh(expected / 0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("at", "starts", "window"),
    [((3, 9), None, None), ((39, 31), None, 8), ((38, 36), STARTS, None)],
    ids=["a later key", "a key that left the window", "a key of another document"],
)
def test_a_logit_that_the_softmax_does_not_see_is_left_out_and_its_neighbour_is_not(
    at: tuple[int, int], starts: torch.Tensor | None, window: int | None
) -> None:
    """One pair of position and key would have by far the largest logit."""
    query, key = (tensor * 0.01 for tensor in inputs(0, 2))
    query[at[0], 0, 0], key[at[1], 0, 0] = 10.0, 10.0
    hidden = largest_logit(query, key, 1.0, starts, window, most_logits=3000)
    query[at[1], 0, 0] = 10.0  # the same position sees itself
    assert hidden < 10 < 1599 < largest_logit(query, key, 1.0, starts, window, most_logits=3000)


@pytest.mark.parametrize("most_logits", [1, 3000, 2**25], ids=["a row", "some rows", "all"])
def test_fewer_queries_are_those_of_the_last_positions(most_logits: int) -> None:
    query, key = (tensor * 0.01 for tensor in inputs(0, 2))
    query[30, 0, 0], key[30, 0, 0], key[31, 0, 0] = 10.0, 10.0, 100.0  # position 30 sees itself, and not the next
    for queries, least in ((9, 0), (10, 1599), (11, 1599)):
        found = largest_logit(query[-queries:], key, 1.0, most_logits=most_logits)
        assert least <= found < least + 200


def test_one_that_is_not_a_number_is_not_hidden() -> None:
    query, key = inputs(0, 2)
    query[5, 1, 3, 0] = float("nan")
    assert largest_logit(query, key, 1.0).isnan()

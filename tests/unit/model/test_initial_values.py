"""Initial values, and the loss's report."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.model.initialize import full_rows
from pretrain.model.loss import masked_loss

ONE_DOMAIN = torch.tensor([0])


def rows(start: int, stop: int, *, seed: int = 1, name: str = "w", columns: int = 5) -> np.ndarray:
    return full_rows(seed=seed, name=name, std=0.02, rows=range(start, stop), columns=columns)


@given(start=st.integers(0, 300), length=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_a_rank_draws_its_rows_as_they_are_in_the_whole_weight(start: int, length: int) -> None:
    assert np.array_equal(rows(start, start + length), rows(0, 500)[start : start + length])


@given(stop=st.integers(1, 400), columns=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_the_ranks_parts_side_by_side_are_the_whole_weight(stop: int, columns: int) -> None:
    for ranks in (2, 4):
        cuts = [stop * rank // ranks for rank in range(ranks + 1)]
        parts = [rows(cuts[r], cuts[r + 1], columns=columns) for r in range(ranks)]
        assert np.array_equal(np.concatenate(parts), rows(0, stop, columns=columns))


def test_the_standard_deviation_only_scales() -> None:
    wide = full_rows(seed=1, name="w", std=0.04, rows=range(0, 10), columns=5)
    np.testing.assert_allclose(wide, 2 * rows(0, 10), rtol=1e-6)


def test_name_and_seed_decide() -> None:
    assert not np.array_equal(rows(0, 10), rows(0, 10, seed=2))
    assert not np.array_equal(rows(0, 10), rows(0, 10, name="v"))
    assert np.array_equal(rows(0, 10), rows(0, 10))


def test_no_two_blocks_of_rows_are_alike() -> None:
    assert len({row.tobytes() for row in rows(0, 1000)}) == 1000


def test_values_are_normal_with_the_standard_deviation_asked_for() -> None:
    values = rows(0, 2000, columns=500)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 1e-4 and abs(values.std() / 0.02 - 1) < 0.005
    assert 0.30 < (abs(values) > 0.02).mean() < 0.335


def test_the_values_are_the_same_on_every_machine() -> None:
    """Written down once: a library that draws otherwise would change every run's start."""
    expected = [-0.018777156248688698, 0.018555214628577232, -0.023333318531513214]
    np.testing.assert_allclose(rows(0, 1)[0, :3], expected, rtol=1e-6)


def loss_of(
    mask: torch.Tensor, domains: torch.Tensor, count: int, per_token: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss without z-loss; the report without its column."""
    figures = torch.stack((per_token, torch.ones_like(per_token)))
    total, tokens, report = masked_loss(mask, domains, count, 0.0, figures)
    return total, tokens, report[:, :2]


def test_the_z_loss_is_added_by_its_weight_and_reported_apart() -> None:
    figures = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]], requires_grad=True)
    total, _, report = masked_loss(torch.tensor([[1.0, 0.0]]), ONE_DOMAIN, 1, 0.5, figures)
    total.backward()
    assert total.item() == 1.0 + 0.5 * 9.0 and report.tolist() == [[1.0, 1.0, 9.0]]
    assert figures.grad is not None and figures.grad.tolist() == [[[1.0, 0.0]], [[0.5 * 2 * 3.0, 0.0]]]


def test_the_report_survives_the_schedule_dividing_the_loss_in_place() -> None:
    per_token = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    total, tokens, report = loss_of(mask, torch.zeros(2, dtype=torch.int64), 1, per_token)
    with torch.no_grad():
        total /= 8
    assert report.tolist() == [[6.0, 3.0]]
    assert tokens.item() == 3 and tokens.dtype == torch.int32


def test_masked_tokens_have_no_gradient() -> None:
    per_token = torch.ones(1, 3, requires_grad=True)
    loss_of(torch.tensor([[1.0, 0.0, 1.0]]), ONE_DOMAIN, 1, per_token)[0].backward()
    assert per_token.grad is not None and per_token.grad.tolist() == [[1.0, 0.0, 1.0]]


def test_a_micro_batch_without_a_token_that_counts_adds_nothing() -> None:
    total, tokens, report = loss_of(torch.zeros(1, 2), ONE_DOMAIN, 1, torch.ones(1, 2))
    assert (total.item(), tokens.item(), report.tolist()) == (0.0, 0, [[0.0, 0.0]])


def test_the_loss_is_summed_in_fp32_whatever_the_model_computes_in() -> None:
    per_token = torch.full((1, 1024), 1.0, dtype=torch.bfloat16)
    per_token[0, 0] = 2.0
    total, _, report = loss_of(torch.ones(1, 1024), ONE_DOMAIN, 1, per_token)
    assert total.dtype == torch.float32 and report.tolist() == [[1025.0, 1024.0]], "bf16 would say 1024"


def test_the_report_keeps_domains_apart_and_its_sum_is_the_whole() -> None:
    per_token = torch.arange(8.0).view(4, 2)
    mask = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    total, tokens, report = loss_of(mask, torch.tensor([2, 0, 2, 1]), 4, per_token)
    assert report.dtype == torch.float64
    assert report.tolist() == [[3.0, 1.0], [0.0, 0.0], [10.0, 4.0], [0.0, 0.0]]
    assert report.sum(dim=0).tolist() == [total.item(), tokens.item()]


def test_a_row_that_is_not_finite_leaves_the_other_domains_figures_alone() -> None:
    per_token = torch.tensor([[1.0], [float("inf")], [float("nan")]])
    report = loss_of(torch.ones(3, 1), torch.tensor([0, 1, 2]), 3, per_token)[2]
    assert report[0].tolist() == [1.0, 1.0] and not report[1:, 0].isfinite().any()

"""Cross entropy over a vocabulary that the ranks of a group hold slices of. Definition: kernels.reference.cross_entropy.

It holds the logits as they are, 2 bytes each in bf16, and writes their gradient in their place; megatron-core 0.16.1 holds an
fp32 softmax, and 6 bytes a logit at its largest. The exponentials are computed twice, in parts that stay in a core's cache. It
gives the logarithm of the normaliser as well, for a z-loss, and knows a cap on the logits and columns that stand for no token.

What reads and writes logits is a pair of passes, torch's here and Triton's in triton/cross_entropy.py. The rest is one for both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.rows import row_parts


@dataclass(frozen=True)
class Columns:
    """The columns of a rank: the number of the first one, how many of them stand for a token, and the cap on their logits."""

    first: int
    count: int
    soft_cap: float | None


@dataclass(frozen=True)
class Passes:
    """The two passes over the logits of a rank, for the loss and for the gradient. Called, they are the whole operation."""

    statistics: Callable[[Tensor, Tensor, Columns], Tensor]
    """As ``statistics``."""
    over_logits: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Columns], None]
    """As ``over_logits``."""

    def __call__(
        self, logits: Tensor, labels: Tensor, group: dist.ProcessGroup | None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Compute the cross entropy by these passes. Args: as of vocab_parallel_cross_entropy."""
        return vocab_parallel_cross_entropy(logits, labels, group, passes=self, **options)


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Hold the logits, the log-sum-exp and the labels. The gradient takes the place of the logits, so a second one is refused."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        logits: Tensor,
        labels: Tensor,
        group: dist.ProcessGroup | None,
        columns: Columns,
        passes: Passes,
    ) -> tuple[Tensor, Tensor]:
        rows, flat = logits.detach().reshape(-1, logits.shape[-1]), labels.reshape(-1).contiguous()
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        loss, log_sum_exp = combined(passes.statistics(rows, flat, columns), group)
        ctx.save_for_backward(rows, log_sum_exp, flat)
        ctx.columns, ctx.passes, ctx.shape, ctx.is_done = columns, passes, logits.shape, False  # pyright: ignore[reportAttributeAccessIssue]
        return loss.view(labels.shape), log_sum_exp.view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_loss: Tensor, for_log_sum_exp: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert not ctx.is_done, "the gradient has taken the place of the logits: there is no second one"
        ctx.is_done = True
        rows, log_sum_exp, labels = ctx.saved_tensors
        ctx.passes.over_logits(
            rows, labels, log_sum_exp, for_loss.reshape(-1), for_log_sum_exp.reshape(-1), ctx.columns
        )
        return rows.view(ctx.shape), None, None, None, None


def vocab_parallel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    group: dist.ProcessGroup | None,
    *,
    columns: int | None = None,
    soft_cap: float | None = None,
    passes: Passes | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the negative log likelihood of each label, and the log-sum-exp of the logits, over all ranks of a group.

    A collective: two all-reduces, of [s, b] and [2, s, b], in the forward, none in the backward. The gradient of the logits is
    softmax * (g_loss + g_lse) - onehot * g_loss, in the memory of the logits: nobody else may need them.

    Args:
        logits: [s, b, v/t], copied unless rows lie in one piece, the columns of this rank, of which rank i of the group has
            v/t * i and those that follow.
        labels: [s, b], integers in [0, v), the same on every rank.
        group: the t ranks, or None for one rank alone.
        columns: how many of this rank's columns take part, the first ones; None for all. The others' gradient is 0.
        soft_cap: logits x count as cap * tanh(x / cap) (Gemma 2); None for no cap.
        passes: what goes over the logits; None for torch's.
    Returns: loss [s, b] and log-sum-exp [s, b], the same on every rank, fp32 whatever the dtype of the logits (fp64 for
        fp64). Their gradients must be the same on every rank too.
    Source: Shoeybi et al., Megatron-LM, 2019 (arXiv:1909.08053), section 3.
    """
    assert labels.shape == logits.shape[:-1], f"labels {tuple(labels.shape)} must fit logits {tuple(logits.shape)}"
    here = columns_here(logits.shape[-1], group, columns, soft_cap)
    return _VocabParallelCrossEntropy.apply(logits, labels, group, here, passes or TORCH)  # pyright: ignore[reportReturnType]


def columns_here(width: int, group: dist.ProcessGroup | None, count: int | None, soft_cap: float | None) -> Columns:
    """Return the columns of this rank of a group, of which each rank has ``width``."""
    return Columns(0 if group is None else group.rank() * width, width if count is None else count, soft_cap)


def statistics(rows: Tensor, labels: Tensor, columns: Columns) -> Tensor:
    """Return of each row, by this rank's columns: the largest logit, the sum of exp(logit - largest), and the label's logit.

    Args: rows [n, v/t]; labels [n]. Returns: [3, n], in fp32 at least; -inf, 0 and 0 where nothing counts.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    largest, total, chosen = found = rows.new_zeros(3, len(rows), dtype=wide)
    if not columns.count:
        largest.fill_(-torch.inf)
        return found
    for part in row_parts(rows):
        values = _capped(rows[part, : columns.count].to(wide), columns.soft_cap)
        top = values.amax(dim=-1, keepdim=True)
        largest[part] = top[:, 0]
        total[part] = (values - top).exp_().sum(dim=-1)
    places, elsewhere = _places(labels, columns)
    at_label = rows.gather(-1, places.unsqueeze(-1)).squeeze(-1).to(wide)
    chosen.copy_(_capped(at_label, columns.soft_cap).masked_fill_(elsewhere, 0.0))
    return found


def combined(found: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Return loss and log-sum-exp [n] from the statistics [3, n] of every rank of a group. A collective."""
    largest, total, chosen = found
    if group is not None and group.size() > 1:
        own = largest.clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
        sums = torch.stack((total * own.sub_(largest).exp_(), chosen))  # all but one rank add zero to the label's
        dist.all_reduce(sums, group=group)
        total, chosen = sums
    log_sum_exp = total.log().add_(largest)
    return log_sum_exp - chosen, log_sum_exp


def over_logits(
    rows: Tensor, labels: Tensor, log_sum_exp: Tensor, for_loss: Tensor, for_log_sum_exp: Tensor, columns: Columns
) -> None:
    """Write the gradient of the logits over them. rows [n, v/t], the others [n]; no collective."""
    places, elsewhere = _places(labels, columns)
    at_label = for_loss.masked_fill(elsewhere, 0.0).neg().unsqueeze(-1)
    weight = (for_loss + for_log_sum_exp).unsqueeze(-1)
    for part in row_parts(rows) if columns.count else ():
        values = _capped(rows[part, : columns.count].to(log_sum_exp.dtype, copy=True), columns.soft_cap)
        slope = None if columns.soft_cap is None else (values / columns.soft_cap).square_().neg_().add_(1)
        gradient = values.sub_(log_sum_exp[part].unsqueeze(-1)).exp_().mul_(weight[part])
        gradient.scatter_add_(-1, places[part].unsqueeze(-1), at_label[part])
        rows[part, : columns.count] = gradient if slope is None else gradient.mul_(slope)
    rows[:, columns.count :] = 0


def _places(labels: Tensor, columns: Columns) -> tuple[Tensor, Tensor]:
    """Return the column of each label, 0 where another rank has it, and which those are."""
    places = labels - columns.first
    elsewhere = (places < 0) | (places >= columns.count)
    return places.masked_fill_(elsewhere, 0), elsewhere


def _capped(values: Tensor, soft_cap: float | None) -> Tensor:
    return values if soft_cap is None else torch.tanh(values / soft_cap).mul_(soft_cap)


TORCH = Passes(statistics, over_logits)

"""Cross entropy over a vocabulary that the ranks of a group hold slices of. Definition: kernels.reference.cross_entropy.

It holds the logits as they are, 2 bytes each in bf16, and writes their gradient in their place; megatron-core 0.16.1 holds an
fp32 softmax, and 6 bytes a logit at its largest. The exponentials are computed twice, in parts that stay in a core's cache. It
gives the logarithm of the normaliser as well, for a z-loss, and knows a cap on the logits and columns that stand for no token.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.rows import row_parts


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Hold the logits, the log-sum-exp and the labels. The gradient takes the place of the logits, so a second one is refused."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        logits: Tensor,
        labels: Tensor,
        group: dist.ProcessGroup | None,
        columns: int,
        soft_cap: float | None,
    ) -> tuple[Tensor, Tensor]:
        rows = logits.view(-1, logits.shape[-1])
        wide = torch.promote_types(logits.dtype, torch.float32)
        largest, total = rows.new_full((len(rows),), -torch.inf, dtype=wide), rows.new_zeros(len(rows), dtype=wide)
        for part in row_parts(rows) if columns else ():
            values = _capped(rows[part, :columns].to(wide), soft_cap)
            top = values.amax(dim=-1, keepdim=True)
            largest[part] = top[:, 0]
            total[part] = (values - top).exp_().sum(dim=-1)
        first = 0 if group is None else group.rank() * logits.shape[-1]  # this rank's first column
        places = labels.reshape(-1) - first
        elsewhere = (places < 0) | (places >= columns)
        places = places.masked_fill_(elsewhere, 0)
        chosen = _capped(rows.gather(-1, places.unsqueeze(-1)).squeeze(-1).to(wide), soft_cap)
        chosen = chosen.masked_fill_(elsewhere, 0.0)
        if group is not None and group.size() > 1:
            own = largest.clone()
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
            sums = torch.stack(
                (total.mul_(own.sub_(largest).exp_()), chosen)
            )  # all but one rank add zero to the label's
            dist.all_reduce(sums, group=group)
            total, chosen = sums
        log_sum_exp = total.log().add_(largest)
        ctx.save_for_backward(logits, log_sum_exp, places, elsewhere)
        ctx.columns, ctx.soft_cap, ctx.is_done = columns, soft_cap, False  # pyright: ignore[reportAttributeAccessIssue]
        return (log_sum_exp - chosen).view(labels.shape), log_sum_exp.view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_loss: Tensor, for_log_sum_exp: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert not ctx.is_done, "the gradient has taken the place of the logits: there is no second one"
        ctx.is_done = True
        logits, log_sum_exp, places, elsewhere = ctx.saved_tensors
        rows = logits.view(-1, logits.shape[-1])
        at_label = for_loss.reshape(-1).masked_fill(elsewhere, 0.0).neg().unsqueeze(-1)
        weight = (for_loss + for_log_sum_exp).reshape(-1, 1)
        for part in row_parts(rows) if ctx.columns else ():
            values = rows[part, : ctx.columns].to(log_sum_exp.dtype, copy=True)
            slope = None
            if ctx.soft_cap is not None:
                values = _capped(values, ctx.soft_cap)
                slope = (values / ctx.soft_cap).square_().neg_().add_(1)
            gradient = values.sub_(log_sum_exp[part].unsqueeze(-1)).exp_().mul_(weight[part])
            gradient.scatter_add_(-1, places[part].unsqueeze(-1), at_label[part])
            rows[part, : ctx.columns] = gradient if slope is None else gradient.mul_(slope)
        rows[:, ctx.columns :] = 0
        return logits, None, None, None, None


def vocab_parallel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    group: dist.ProcessGroup | None,
    *,
    columns: int | None = None,
    soft_cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the negative log likelihood of each label, and the log-sum-exp of the logits, over all ranks of a group.

    A collective: two all-reduces, of [s, b] and [2, s, b], in the forward, none in the backward. The gradient of the logits is
    softmax * (g_loss + g_lse) - onehot * g_loss, in the memory of the logits: nobody else may need them.

    Args:
        logits: [s, b, v/t], contiguous, the columns of this rank, of which rank i of the group has v/t * i and those that follow.
        labels: [s, b], integers in [0, v), the same on every rank.
        group: the t ranks, or None for one rank alone.
        columns: how many of this rank's columns take part, the first ones; None for all. The others' gradient is 0.
        soft_cap: logits x count as cap * tanh(x / cap) (Gemma 2); None for no cap.
    Returns: loss [s, b] and log-sum-exp [s, b], the same on every rank, fp32 whatever the dtype of the logits (fp64 for
        fp64). Their gradients must be the same on every rank too.
    Source: Shoeybi et al., Megatron-LM, 2019 (arXiv:1909.08053), section 3.
    """
    assert labels.shape == logits.shape[:-1], f"labels {tuple(labels.shape)} must fit logits {tuple(logits.shape)}"
    columns = logits.shape[-1] if columns is None else columns
    return _VocabParallelCrossEntropy.apply(logits, labels, group, columns, soft_cap)  # pyright: ignore[reportReturnType]


def _capped(values: Tensor, soft_cap: float | None) -> Tensor:
    return values if soft_cap is None else torch.tanh(values / soft_cap).mul_(soft_cap)

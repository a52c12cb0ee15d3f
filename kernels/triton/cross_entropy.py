"""Cross entropy over a vocabulary that the ranks of a group hold slices of, through Triton. Definition: kernels.reference.

It holds the logits as they are, in bf16 two bytes each, and writes their gradient over them: kernels/cross_entropy.py holds an
fp32 softmax, and the logits as well until their owner lets go. Kernels: device/cross_entropy.py. Not yet run on a GPU.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.triton import launch
from fanal.kernels.triton.rows import as_rows, parts

FORWARD_LANES, BACKWARD_BLOCK = 512, 2048
"""Lanes of eight columns, two lanes a thread; and columns, eight a thread."""


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Hold the logits. Backward makes the gradient in their place, so a second one is refused."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        logits: Tensor,
        labels: Tensor,
        group: dist.ProcessGroup | None,
        real_columns: int | None,
        soft_cap: float | None,
    ) -> tuple[Tensor, Tensor]:
        rows, flat_labels = as_rows(logits.detach()), labels.reshape(-1).contiguous()
        first = 0 if group is None else group.rank() * rows.shape[1]
        columns = columns_here(rows.shape[1], first, real_columns)
        largest, total, chosen = statistics(rows, flat_labels, first, columns, soft_cap)
        loss, log_sum_exp = combined(largest, total, chosen, group)
        ctx.save_for_backward(rows, flat_labels, log_sum_exp)
        ctx.numbers = first, columns, soft_cap  # pyright: ignore[reportAttributeAccessIssue]
        ctx.shape = logits.shape  # pyright: ignore[reportAttributeAccessIssue]
        return loss.view(labels.shape), log_sum_exp.view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, for_loss: Tensor, for_log_sum_exp: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, labels, log_sum_exp = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        over_logits(rows, labels, log_sum_exp.view(-1), for_loss, for_log_sum_exp, *ctx.numbers)  # pyright: ignore[reportAttributeAccessIssue]
        torch.autograd.graph.increment_version(
            rows
        )  # a second backward would read a gradient as logits: torch refuses it now
        return rows.view(ctx.shape), None, None, None, None  # pyright: ignore[reportAttributeAccessIssue]


def vocab_parallel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    group: dist.ProcessGroup | None,
    real_columns: int | None = None,
    soft_cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the negative log likelihood of each label, and the log-sum-exp of the logits, over all ranks of a group.

    The backward writes the gradient over the logits: nobody may read them afterwards. A collective: two all-reduces in the
    forward, of [s, b] and of twice that; none in the backward.

    Args: logits [s, b, v/t], the columns of this rank, of which rank i of the group has v/t * i and those that follow;
        labels [s, b], int64 in [0, real_columns), the same on every rank; group, the t ranks, or None for one rank alone;
        real_columns, how many columns of the whole vocabulary count, the others pad it, None for all; soft_cap, what
        bounds the logits as kernels.reference.soft_cap does, None for nothing.
    Returns: loss [s, b] and log-sum-exp [s, b], the same on every rank, fp32. Their gradients must be the same on every rank
        too.
    Source: Shoeybi et al., Megatron-LM, 2019 (arXiv:1909.08053), section 3.
    """
    assert labels.shape == logits.shape[:-1], f"labels {tuple(labels.shape)} must fit logits {tuple(logits.shape)}"
    assert labels.dtype == torch.int64, f"labels are {labels.dtype}, not torch.int64"
    return _VocabParallelCrossEntropy.apply(logits, labels, group, real_columns, soft_cap)  # pyright: ignore[reportReturnType]


def columns_here(width: int, first: int, real_columns: int | None) -> int:
    """Return how many of a rank's columns count: those below real_columns, of which the padding follows."""
    return width if real_columns is None else min(max(real_columns - first, 0), width)


def statistics(
    rows: Tensor, labels: Tensor, first: int, columns: int, soft_cap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what this rank's columns say of each row: the largest logit, the sum of exp(logit - largest), the label's logit.

    Args: rows [rows, v/t]; labels [rows]; first, the number of the first column; columns, how many of them count.
    Returns: three tensors [rows], fp32; -inf, 0 and 0 where nothing counts.
    """
    largest, total, chosen = torch.empty((3, len(rows)), dtype=torch.float32, device=rows.device)
    launch.start(
        "cross_entropy.forward",
        (len(rows),),
        *(rows, labels, largest, total, chosen),
        *(rows.stride(0), first, columns, float(soft_cap or 0)),
        num_warps=8,
        CAP=soft_cap is not None,
        LANES=FORWARD_LANES,
    )
    return largest, total, chosen


def combined(largest: Tensor, total: Tensor, chosen: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Return loss and log-sum-exp from the statistics of every rank of a group. A collective."""
    several = group is not None and group.size() > 1
    overall = largest.clone() if several else largest
    if several:
        dist.all_reduce(overall, dist.ReduceOp.MAX, group)
    summed = torch.stack([total * torch.exp(largest - overall), chosen])
    if several:
        dist.all_reduce(summed, dist.ReduceOp.SUM, group)
    log_total = summed[0].log()
    return log_total - (summed[1] - overall), log_total + overall


def over_logits(
    rows: Tensor,
    labels: Tensor,
    log_sum_exp: Tensor,
    for_loss: Tensor,
    for_log_sum_exp: Tensor,
    first: int,
    columns: int,
    soft_cap: float | None,
) -> None:
    """Write the gradient of the logits over them. rows [rows, v/t], the others [rows] in any shape; no collective."""
    launch.start(
        "cross_entropy.backward",
        (len(rows), parts(rows.shape[1], BACKWARD_BLOCK)),
        *(rows, labels, log_sum_exp, for_loss.reshape(-1).contiguous(), for_log_sum_exp.reshape(-1).contiguous()),
        *(rows.stride(0), first, columns, rows.shape[1], float(soft_cap or 0)),
        num_warps=8,
        CAP=soft_cap is not None,
        BLOCK=BACKWARD_BLOCK,
    )

"""The output layer and its cross entropy, a chunk of tokens at a time: the logits of a micro batch never lie in memory whole.

The forward keeps a log-sum-exp of each token; the backward makes a chunk's logits again and multiplies their gradient at once. It
costs one product of matrices in four more. Exact: every logit is the one that the whole product gives; the weight's gradient is
summed in fp32, where its owner wants the sum. Definition: kernels.reference.cross_entropy of hidden @ weight.T.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels import products
from fanal.kernels.cross_entropy import TORCH, Columns, Passes, columns_here, combined


class WeightSum:
    """The sum of the gradients of a weight from several chunks, in fp32 at least."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))

    def add(self, gradient: Tensor, x: Tensor) -> None:
        """Add the gradient from that of a chunk's output and its input. [..., o], [..., i]"""
        if not products.add_weight_gradient(self.total, gradient, x):
            self.total += products.weight_gradient(gradient, x)

    def gradient(self) -> Tensor:
        """Return what autograd is given for the weight. [o, i]"""
        return self.total.to(self.weight.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    """Hold hidden states, weight, labels and the log-sum-exp."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        group: dist.ProcessGroup | None,
        columns: Columns,
        chunk: int,
        passes: Passes,
        weight_sum: Callable[[Tensor], WeightSum],
    ) -> tuple[Tensor, Tensor]:
        rows, flat = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1).contiguous()
        chunks = zip(rows.split(chunk), flat.split(chunk), strict=True)
        found = [passes.statistics(products.linear(some, weight), of_some, columns) for some, of_some in chunks]
        loss, log_sum_exp = combined(torch.cat(found, dim=1), group)
        ctx.save_for_backward(hidden, weight, flat, log_sum_exp)
        ctx.columns, ctx.chunk, ctx.passes, ctx.weight_sum = columns, chunk, passes, weight_sum  # pyright: ignore[reportAttributeAccessIssue]
        return loss.view(labels.shape), log_sum_exp.view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_loss: Tensor, for_log_sum_exp: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, labels, log_sum_exp = ctx.saved_tensors
        rows = hidden.reshape(-1, hidden.shape[-1])
        for_rows = torch.empty_like(rows)
        for_weight = ctx.weight_sum(weight)
        of_tokens = (labels, log_sum_exp, for_loss.reshape(-1), for_log_sum_exp.reshape(-1))
        chunks = zip(*(tensor.split(ctx.chunk) for tensor in (rows, for_rows, *of_tokens)), strict=True)
        for some, for_some, of_labels, log_sums, of_loss, of_log_sums in chunks:
            logits = products.linear(some, weight)
            ctx.passes.over_logits(logits, of_labels, log_sums, of_loss, of_log_sums, ctx.columns)
            for_some.copy_(products.input_gradient(logits, weight))
            for_weight.add(logits, some)
            del logits  # a chunk's go before the next one's come
        return for_rows.view(hidden.shape), for_weight.gradient(), *(None,) * 6


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    group: dist.ProcessGroup | None,
    *,
    chunk: int,
    columns: int | None = None,
    soft_cap: float | None = None,
    passes: Passes = TORCH,
    weight_sum: Callable[[Tensor], WeightSum] = WeightSum,
) -> tuple[Tensor, Tensor]:
    """Compute the cross entropy of hidden @ weight.T, and its log-sum-exp, over all ranks of a group.

    A collective: two all-reduces in the forward, none in the backward. The gradient of hidden is this rank's part of a sum over the
    group: whoever brought hidden to all ranks sums it in its own backward.

    Args: hidden [s, b, h]; weight [v/t, h], of one dtype; labels [s, b]; chunk: tokens whose logits lie in memory at a time;
        weight_sum: makes the sum of the weight's gradients when the backward begins; the others as in
        kernels.cross_entropy.vocab_parallel_cross_entropy.
    Returns: loss [s, b] and log-sum-exp [s, b], the same on every rank, in fp32 at least.
    Source: Wijmans et al., Cut Your Losses, 2024 (arXiv:2411.09009), for the idea; this one writes a chunk's logits down.
    """
    assert labels.shape == hidden.shape[:-1], f"labels {tuple(labels.shape)} must fit hidden {tuple(hidden.shape)}"
    assert hidden.dtype == weight.dtype, f"weight ({weight.dtype}) and hidden ({hidden.dtype}) must have one dtype"
    assert chunk >= 1, f"chunk ({chunk}) must be at least one token"
    here = columns_here(len(weight), group, columns, soft_cap)
    return _LinearCrossEntropy.apply(hidden, weight, labels, group, here, chunk, passes, weight_sum)  # pyright: ignore[reportReturnType]

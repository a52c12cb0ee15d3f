"""The output layer and its cross entropy, a chunk of tokens at a time, so that the logits are never there whole.

The forward keeps a log-sum-exp for each token; the backward makes a chunk's logits again, writes their gradient over them, and
multiplies at once. It costs one product of matrices in four more, and saves two bytes a logit: at 8,192 tokens and a vocabulary of
128,256, 2 GB. Exact: every logit is the one that the whole product gives. Kernels: device/cross_entropy.py. Not yet run on a GPU.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.triton.cross_entropy import columns_here, combined, over_logits, statistics
from fanal.kernels.triton.rows import as_rows


class _LinearCrossEntropy(torch.autograd.Function):
    """Hold hidden states, weight, labels and the log-sum-exp."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        group: dist.ProcessGroup | None,
        real_columns: int | None,
        soft_cap: float | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        rows, flat_labels = as_rows(hidden.detach()), labels.reshape(-1).contiguous()
        first = 0 if group is None else group.rank() * len(weight)
        numbers = first, columns_here(len(weight), first, real_columns), soft_cap
        found = [
            statistics(torch.mm(some, weight.t()), of_some, *numbers)
            for some, of_some in zip(rows.split(chunk), flat_labels.split(chunk), strict=True)
        ]
        largest, total, chosen = (torch.cat(of_chunks) for of_chunks in zip(*found, strict=True))
        loss, log_sum_exp = combined(largest, total, chosen, group)
        ctx.save_for_backward(rows, weight, flat_labels, log_sum_exp)
        ctx.numbers = numbers  # pyright: ignore[reportAttributeAccessIssue]
        ctx.chunk = chunk  # pyright: ignore[reportAttributeAccessIssue]
        ctx.shape = hidden.shape  # pyright: ignore[reportAttributeAccessIssue]
        return loss.view(labels.shape), log_sum_exp.view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, for_loss: Tensor, for_log_sum_exp: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight, labels, log_sum_exp = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        d_rows = torch.empty_like(rows)
        # Each chunk's part is rounded once, as the whole product would be, and the parts are summed in fp32.
        d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        tokens = [labels, log_sum_exp, for_loss.reshape(-1), for_log_sum_exp.reshape(-1)]
        of_chunks = zip(*(tensor.split(ctx.chunk) for tensor in (rows, d_rows, *tokens)), strict=True)  # pyright: ignore[reportAttributeAccessIssue]
        for some, d_some, *of_some in of_chunks:
            logits = torch.mm(some, weight.t())
            over_logits(logits, *of_some, *ctx.numbers)  # pyright: ignore[reportAttributeAccessIssue]
            torch.mm(logits, weight, out=d_some)
            d_weight += torch.mm(logits.t(), some)
        return d_rows.view(ctx.shape), d_weight.to(weight.dtype), None, None, None, None, None  # pyright: ignore[reportAttributeAccessIssue]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    group: dist.ProcessGroup | None,
    real_columns: int | None = None,
    soft_cap: float | None = None,
    chunk: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Compute the cross entropy of hidden @ weight.T, and its log-sum-exp, over all ranks of a group. Never holds the logits.

    A collective: two all-reduces in the forward; none in the backward. The gradient of hidden is this rank's part of a sum over
    the group: whoever brought hidden to all ranks (Megatron's copy or gather into the region) sums it in its own backward.

    Args: hidden [s, b, h]; weight [v/t, h], this rank's rows, of hidden's dtype; labels [s, b]; chunk, how many tokens at a
        time: [chunk, v/t] logits are there at once; the rest as in triton.cross_entropy.vocab_parallel_cross_entropy.
    Returns: loss [s, b] and log-sum-exp [s, b], fp32, the same on every rank.
    Source: Wijmans et al., Cut Your Losses, 2024 (arXiv:2411.09009), for the idea; this one writes a chunk's logits down.
    """
    assert hidden.shape[-1] == weight.shape[1], f"weight {tuple(weight.shape)} must fit hidden {tuple(hidden.shape)}"
    assert labels.shape == hidden.shape[:-1], f"labels {tuple(labels.shape)} must fit hidden {tuple(hidden.shape)}"
    assert labels.dtype == torch.int64, f"labels are {labels.dtype}, not torch.int64"
    assert hidden.dtype == weight.dtype, f"weight ({weight.dtype}) and hidden ({hidden.dtype}) must have one dtype"
    assert chunk >= 1, f"chunk ({chunk}) must be at least one token"
    return _LinearCrossEntropy.apply(hidden, weight, labels, group, real_columns, soft_cap, chunk)  # pyright: ignore[reportReturnType]

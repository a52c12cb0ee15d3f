"""Cross entropy over a vocabulary that the ranks of a group hold slices of. Definition: kernels.reference.cross_entropy.

The operations and their order are those of megatron-core 0.16.1's vocab_parallel_cross_entropy, so loss and gradient equal
its bit for bit. It gives the logarithm of the normaliser as well, for a z-loss, at no further pass over the logits. Logits
in fp32 are left as they are, where Megatron writes its exponentials over them: until the caller lets go of them, one more
tensor of their size is held.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Hold the softmax, [s, b, v/t] in fp32. Backward makes the gradient in its place, so a second one is refused."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, logits: Tensor, labels: Tensor, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor]:
        width = logits.shape[-1]
        first = 0 if group is None else group.rank() * width  # this rank's first column
        wide = torch.promote_types(logits.dtype, torch.float32)
        largest = logits.max(dim=-1)[0].to(wide)  # exact in any dtype
        _all_reduce(largest, dist.ReduceOp.MAX, group)
        shifted = logits - largest.unsqueeze(-1)  # in fp32 at least; the one tensor of this size, from here on in place

        elsewhere = (labels < first) | (labels >= first + width)
        columns = (labels - first).masked_fill_(elsewhere, 0)
        chosen = shifted.gather(-1, columns.unsqueeze(-1)).squeeze(-1).masked_fill_(elsewhere, 0.0)
        _all_reduce(chosen, dist.ReduceOp.SUM, group)  # all but one rank add zero

        exponentials = shifted.exp_()
        total = exponentials.sum(dim=-1)
        _all_reduce(total, dist.ReduceOp.SUM, group)
        softmax = exponentials.div_(total.unsqueeze(-1))

        ctx.save_for_backward(softmax, elsewhere, columns)
        ctx.dtype = logits.dtype  # pyright: ignore[reportAttributeAccessIssue]
        log_total = total.log_()
        return log_total - chosen, log_total + largest

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, for_loss: Tensor, for_log_sum_exp: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        softmax, elsewhere, columns = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        chosen = softmax.gather(-1, columns.unsqueeze(-1)).squeeze(-1)  # probability of the label, [s, b]
        here = 1.0 - elsewhere.to(chosen.dtype)
        # In this order a zero gradient of the log-sum-exp leaves Megatron's bits.
        at_label = (chosen - here) * for_loss + chosen * for_log_sum_exp
        gradient = softmax.mul_((for_loss + for_log_sum_exp).unsqueeze(-1))
        gradient.scatter_(-1, columns.unsqueeze(-1), at_label.unsqueeze(-1))
        return gradient.to(ctx.dtype), None, None  # pyright: ignore[reportAttributeAccessIssue]


def vocab_parallel_cross_entropy(
    logits: Tensor, labels: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Compute the negative log likelihood of each label, and the log-sum-exp of the logits, over all ranks of a group.

    A collective: three all-reduces of [s, b] in the forward, none in the backward. The gradient of the logits is
    softmax * (g_loss + g_lse) - onehot * g_loss.

    Args: logits [s, b, v/t], the columns of this rank, of which rank i of the group has v/t * i and those that follow;
        labels [s, b], integers in [0, v), the same on every rank; group, the t ranks, or None for one rank alone.
    Returns: loss [s, b] and log-sum-exp [s, b], the same on every rank, fp32 whatever the dtype of the logits (fp64 for
        fp64). Their gradients must be the same on every rank too.
    Source: Shoeybi et al., Megatron-LM, 2019 (arXiv:1909.08053), section 3.
    """
    assert labels.shape == logits.shape[:-1], f"labels {tuple(labels.shape)} must fit logits {tuple(logits.shape)}"
    return _VocabParallelCrossEntropy.apply(logits, labels, group)  # pyright: ignore[reportReturnType]


def _all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> None:
    if group is not None and group.size() > 1:
        dist.all_reduce(tensor, op=operation, group=group)

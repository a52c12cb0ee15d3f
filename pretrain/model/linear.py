"""The linear layers of a decoder: megatron-core's parallel layers, with products of our own.

megatron adds a weight's gradient to its fp32 buffer in one product only with Apex; here torch does it where it can
(kernels/products.py). What is gathered, reduced and scattered, and when, is as in megatron-core 0.16.1.

Shapes: s sequence, b micro batch, i inputs, o outputs of this rank; /t split by tensor parallelism.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.parallel_state import get_global_memory_buffer
from megatron.core.tensor_parallel import ColumnParallelLinear as MegatronColumnParallelLinear
from megatron.core.tensor_parallel import RowParallelLinear as MegatronRowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels import products
from fanal.kernels.linear_cross_entropy import WeightSum


class _ParallelLinear(torch.autograd.Function):
    """Hold the input as it comes, under sequence parallelism this rank's part of it, and the weight."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reduced_over: dist.ProcessGroup | None,
        gathered_over: dist.ProcessGroup | None,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.has_bias = bias is not None  # pyright: ignore[reportAttributeAccessIssue]
        ctx.reduced_over, ctx.gathered_over = reduced_over, gathered_over  # pyright: ignore[reportAttributeAccessIssue]
        whole = hidden if gathered_over is None else _gathered(hidden, gathered_over)[0]
        output = products.linear(whole, weight)
        return output if bias is None else output.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        # What is sent is issued before the product beside which it travels: CUDA_DEVICE_MAX_CONNECTIONS=1 keeps the order.
        whole, sending = (
            (hidden, None) if ctx.gathered_over is None else _gathered(hidden, ctx.gathered_over, wait=False)
        )
        for_hidden = products.input_gradient(gradient, weight)
        if sending is not None:
            sending.wait()
        if ctx.reduced_over is not None:
            sending = dist.all_reduce(for_hidden, group=ctx.reduced_over, async_op=True)
        elif ctx.gathered_over is not None:
            whole_gradient, for_hidden = for_hidden, torch.empty_like(hidden)
            sending = dist.reduce_scatter_tensor(for_hidden, whole_gradient, group=ctx.gathered_over, async_op=True)
        for_weight = _weight_gradient(weight, gradient, whole)
        for_bias = gradient.flatten(0, -2).sum(dim=0) if ctx.has_bias else None
        if sending is not None:
            sending.wait()
        return for_hidden, for_weight, for_bias, None, None


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    tp_group: dist.ProcessGroup | None,
    **_: Any,
) -> Tensor:
    """Run a linear layer, as megatron-core's layers call it.

    Args:
        input: [s, b, i] or, under sequence parallelism, [s/t, b, i], which is gathered.
        weight: [o, i]; bias: [o], or None.
        allreduce_dgrad: whether to sum the input's gradient over tp_group.
        sequence_parallel: whether to gather the input over tp_group, forward and again backward, and scatter its gradient.
    Returns: [s, b, o].
    """
    reduced_over = tp_group if allreduce_dgrad else None
    gathered_over = tp_group if sequence_parallel else None
    return _ParallelLinear.apply(input, weight, bias, reduced_over, gathered_over)  # pyright: ignore[reportReturnType]


def hidden_of_all(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    tp_group: dist.ProcessGroup | None,
    **_: Any,
) -> Tensor:
    """Bring the input of a linear layer to every rank, as megatron-core's layers call it, and leave the product to who comes next.

    In its backward the input's gradient is summed over the ranks, or summed and scattered. Args: as of linear. Returns: [s, b, i].
    """
    if sequence_parallel:
        return gather_from_sequence_parallel_region(input, tensor_parallel_output_grad=True, group=tp_group)
    return copy_to_tensor_model_parallel_region(input, group=tp_group) if allreduce_dgrad else input


class ColumnParallelLinear(MegatronColumnParallelLinear):
    """A linear layer whose outputs are split by tensor parallelism."""

    def _forward_impl(self, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return linear(input, weight, *args, **kwargs)


class RowParallelLinear(MegatronRowParallelLinear):
    """A linear layer whose inputs are split by tensor parallelism."""

    def _forward_impl(self, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return linear(input, weight, *args, **kwargs)


def _gathered(hidden: Tensor, group: dist.ProcessGroup, *, wait: bool = True) -> tuple[Tensor, Any]:
    """Gather [s/t, b, i] -> [s, b, i], in a buffer that every layer uses anew; and what to wait for."""
    shape = [hidden.shape[0] * group.size(), *hidden.shape[1:]]
    whole = get_global_memory_buffer().get_tensor(shape, hidden.dtype, "mpu")
    return whole, dist.all_gather_into_tensor(whole, hidden.contiguous(), group=group, async_op=not wait)


class _MainGradient(WeightSum):
    """The sum that megatron keeps of a weight's gradients in fp32: what a micro batch gives is added to it at once."""

    def __init__(self, weight: Any) -> None:
        self.weight, self.total = weight, weight.main_grad

    def gradient(self) -> Tensor:
        return _added(self.weight)


def weight_sum(weight: Tensor) -> WeightSum:
    """Return the sum to which the gradients of a weight are added, chunk by chunk: megatron's, where it keeps one."""
    return WeightSum(weight) if getattr(weight, "main_grad", None) is None else _MainGradient(weight)


def _weight_gradient(weight: Tensor, gradient: Tensor, whole: Tensor) -> Tensor:
    """Return the gradient of the weight [o, i], or add it to megatron's buffer and return what megatron then leaves out."""
    total = getattr(weight, "main_grad", None)
    if total is None or not products.add_weight_gradient(total, gradient, whole):
        return products.weight_gradient(gradient, whole)
    return _added(weight)


def _added(weight: Tensor) -> Tensor:
    """Tell megatron that a gradient is in its buffer already, and return one that it leaves out. [o, i]"""
    weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
    # Its hooks want a gradient. That of tied embeddings is added to the embedding's own, and must be zero.
    return torch.zeros_like(weight) if getattr(weight, "zero_out_wgrad", False) else torch.empty_like(weight)

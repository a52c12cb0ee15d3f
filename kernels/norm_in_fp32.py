"""A norm in fp32 over narrower tensors, for weights that must not be rounded first: 1 + weight in bf16 loses the weight."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Norm = Callable[..., Tensor]


class _NormInFp32(torch.autograd.Function):
    """Widen, run the norm, round once. Holds the narrow inputs alone, and runs the norm again in the backward."""

    @staticmethod
    def forward(ctx: FunctionCtx, norm: Norm, *tensors: Tensor) -> Tensor:
        ctx.norm = norm  # pyright: ignore[reportAttributeAccessIssue]
        ctx.save_for_backward(*tensors)
        return norm(*(tensor.float() for tensor in tensors)).to(tensors[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tensors: tuple[Tensor, ...] = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        leaves = [tensor.float().requires_grad_() for tensor in tensors]
        with torch.enable_grad():
            output = ctx.norm(*leaves)  # pyright: ignore[reportAttributeAccessIssue]
        wide = torch.autograd.grad(output, leaves, gradient.float())
        return None, *(gradient.to(tensor.dtype) for gradient, tensor in zip(wide, tensors, strict=True))


def norm_in_fp32(norm: Norm, *tensors: Tensor) -> Tensor:
    """Compute norm(*tensors) in fp32, rounded once to the dtype of the first tensor.

    For tensors narrower than fp32. Between forward and backward it holds the tensors as they are; widening outside would
    hold an fp32 copy of x. It costs fp32 copies while it runs, and the norm a second time in the backward.

    Args: norm, of as many tensors as follow; tensors: x [..., h], then weight and perhaps bias [h].
    Returns: [..., h] in the dtype of x.
    """
    return _NormInFp32.apply(norm, *tensors)  # pyright: ignore[reportReturnType]

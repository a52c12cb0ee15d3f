"""Feed-forward activations through Triton. Definitions: kernels.reference; kernels: device/activations.py.

They take the output of the first layer as it lies in memory, both halves of a gated one in a row, and hold nothing else. Not yet
run on a GPU.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.triton import launch
from fanal.kernels.triton.rows import as_rows, parts

BLOCK = 1024
"""Elements of a row in one program: eight a thread, which in bf16 is one load of 128 bits."""


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, gelu: bool) -> Tensor:
        rows = as_rows(x)
        f = rows.shape[1] // 2
        y = torch.empty((len(rows), f), dtype=x.dtype, device=x.device)
        grid = (len(rows), parts(f, BLOCK))
        launch.start("activations.gated_forward", grid, rows, y, rows.stride(0), f, GELU=gelu, BLOCK=BLOCK)
        ctx.save_for_backward(rows)
        ctx.gelu = gelu  # pyright: ignore[reportAttributeAccessIssue]
        return y.view(*x.shape[:-1], f)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        rows, f = as_rows(dy), dy.shape[-1]
        dx = torch.empty((len(rows), 2 * f), dtype=x.dtype, device=x.device)
        launch.start(
            "activations.gated_backward",
            (len(rows), parts(f, BLOCK)),
            *(x, rows, dx, x.stride(0), rows.stride(0), f),
            GELU=ctx.gelu,  # pyright: ignore[reportAttributeAccessIssue]
            BLOCK=BLOCK,
        )
        return dx.view(*dy.shape[:-1], 2 * f), None


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        rows = as_rows(x)
        f = rows.shape[1]
        y = torch.empty((len(rows), f), dtype=x.dtype, device=x.device)
        grid = (len(rows), parts(f, BLOCK))
        launch.start("activations.squared_relu_forward", grid, rows, y, rows.stride(0), f, BLOCK=BLOCK)
        ctx.save_for_backward(rows)
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        rows, f = as_rows(dy), dy.shape[-1]
        dx = torch.empty((len(rows), f), dtype=x.dtype, device=x.device)
        launch.start(
            "activations.squared_relu_backward",
            (len(rows), parts(f, BLOCK)),
            *(x, rows, dx, x.stride(0), rows.stride(0), f),
            BLOCK=BLOCK,
        )
        return dx.view(dy.shape)


def swiglu(x: Tensor) -> Tensor:
    """Compute gate * sigmoid(gate) * up, x = [gate, up] along the last dimension. Holds x. Rounds once.

    Args: x [..., 2f], as Megatron's gated first layer has it on each rank.
    Returns: [..., f] in x.dtype.
    Source: Shazeer, GLU Variants Improve Transformer, 2020 (arXiv:2002.05202).
    """
    assert x.shape[-1] % 2 == 0, f"the last dimension of x {tuple(x.shape)} must be two halves"
    return _Gated.apply(x, False)  # pyright: ignore[reportReturnType]


def geglu(x: Tensor) -> Tensor:
    """Compute gelu(gate) * up, gelu in its tanh form (Gemma), x = [gate, up]. Holds x. Rounds once, the chain of torch twice.

    Args: x [..., 2f].
    Returns: [..., f] in x.dtype.
    Source: Shazeer, GLU Variants Improve Transformer, 2020 (arXiv:2002.05202).
    """
    assert x.shape[-1] % 2 == 0, f"the last dimension of x {tuple(x.shape)} must be two halves"
    return _Gated.apply(x, True)  # pyright: ignore[reportReturnType]


def squared_relu(x: Tensor) -> Tensor:
    """Compute max(x, 0)^2, elementwise. [..., f] -> [..., f]. Holds x. Source: So et al., 2021 (arXiv:2109.08668)."""
    return _SquaredReLU.apply(x)  # pyright: ignore[reportReturnType]

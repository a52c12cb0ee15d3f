"""Root-mean-square normalisation as it trains. Definition: kernels.reference.rms_norm."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.norm_in_fp32 import norm_in_fp32
from fanal.kernels.rows import row_parts


def rms_norm(x: Tensor, weight: Tensor, eps: float, zero_centered: bool = False) -> Tensor:
    """Compute x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    The arithmetic is in fp32 at least, and rounds once. On a CPU, where torch makes its norm of several operations over the
    whole tensor, it is one function over parts of it that stay in the cache: [2048, 512] on one core, torch 2.13.0, forward and
    backward, 1.2 ms against torch's 2.9 (fp32) and 1.4 against 3.4 (bf16), which a large batch's page faults make 14. On a
    GPU it is torch's fused operation. Not yet run on a GPU, where it may sum in another order.

    Args: x [..., h]; weight [h] of the same dtype as x; eps > 0, added to the mean square; zero_centered: multiply by
        1 + weight (Gemma), the sum in fp32 at least. In bf16 on a GPU that costs the norm a second time in the backward.
    Returns: [..., h] in x.dtype.
    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019 (arXiv:1910.07467).
    """
    assert weight.shape == x.shape[-1:], f"weight {tuple(weight.shape)} must match the last dim of x {tuple(x.shape)}"
    # With two dtypes torch leaves its fused path, and says so only in a warning.
    assert weight.dtype == x.dtype, f"weight ({weight.dtype}) and x ({x.dtype}) must have one dtype"
    if x.device.type == "cpu":
        return _RMSNorm.apply(x, weight, eps, zero_centered)  # pyright: ignore[reportReturnType]

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        # torch's default eps=None means the machine epsilon of the dtype, a different function for bf16: always pass ours.
        return F.rms_norm(x, (x.shape[-1],), weight + 1 if zero_centered else weight, eps)

    narrow = torch.promote_types(x.dtype, torch.float32) != x.dtype
    return norm_in_fp32(norm, x, weight) if zero_centered and narrow else norm(x, weight)


class _RMSNorm(torch.autograd.Function):
    """Hold x, the weight, and one number a row, R = 1 / sqrt(mean(x^2) + eps).

    With g = dy * w: dx = R * g - x * R^3 * mean(g * x), and dw = sum over rows of dy * x * R.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float, zero_centered: bool) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        wide = torch.promote_types(x.dtype, torch.float32)
        factor = weight.to(wide) + 1 if zero_centered else weight.to(wide)
        output = torch.empty_like(rows, memory_format=torch.contiguous_format)
        inverses = rows.new_empty(len(rows), 1, dtype=wide)
        for part in row_parts(rows):
            values = rows[part].to(wide)
            norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
            inverse = norms.square_().div_(rows.shape[-1]).add_(eps).rsqrt_()
            output[part] = (values * inverse).mul_(factor)
            inverses[part] = inverse
        ctx.save_for_backward(x, factor, inverses)
        return output.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, factor, inverses = ctx.saved_tensors
        rows, gradients = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, x.shape[-1])
        for_x = torch.empty_like(rows, memory_format=torch.contiguous_format)
        for_weight = torch.zeros_like(factor)
        for part in row_parts(rows):
            values, grown, inverse = rows[part].to(factor.dtype), gradients[part].to(factor.dtype), inverses[part]
            products = values * grown
            for_weight.addmv_(products.t(), inverse[:, 0])
            mean = torch.mv(products, factor).unsqueeze(-1).div_(-rows.shape[-1])
            through = torch.mul(grown, factor, out=products).mul_(inverse)
            for_x[part] = through.addcmul_(values, mean.mul_(inverse.pow(3)))
        return for_x.view(x.shape), for_weight.to(x.dtype), None, None

"""Root-mean-square normalisation as it trains. Definition: kernels.reference.rms_norm."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fanal.kernels.norm_in_fp32 import norm_in_fp32


def rms_norm(x: Tensor, weight: Tensor, eps: float, zero_centered: bool = False) -> Tensor:
    """Compute x / sqrt(mean(x^2) + eps) * weight over the last dimension, with torch's fused operation.

    torch's operation keeps its statistics in fp32 for bf16 inputs and rounds once, so on a CPU (torch 2.13.0) its
    forward equals the reference bit for bit, in fp32 and bf16. With 1,024 tokens of size 1,024 on two cores,
    forward and backward take 0.39 (fp32) and 0.64 (bf16) of the reference's time. Not yet run on a GPU, where the fused
    kernel may sum in another order.

    Args: x [..., h]; weight [h] of the same dtype as x; eps > 0, added to the mean square; zero_centered: multiply by
        1 + weight (Gemma), the sum in fp32 at least. In bf16 that costs the norm a second time in the backward.
    Returns: [..., h] in x.dtype.
    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019 (arXiv:1910.07467).
    """
    assert weight.shape == x.shape[-1:], f"weight {tuple(weight.shape)} must match the last dim of x {tuple(x.shape)}"
    # With two dtypes torch leaves its fused path, and says so only in a warning.
    assert weight.dtype == x.dtype, f"weight ({weight.dtype}) and x ({x.dtype}) must have one dtype"

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        # torch's default eps=None means the machine epsilon of the dtype, a different function for bf16: always pass ours.
        return F.rms_norm(x, (x.shape[-1],), weight + 1 if zero_centered else weight, eps)

    narrow = torch.promote_types(x.dtype, torch.float32) != x.dtype
    return norm_in_fp32(norm, x, weight) if zero_centered and narrow else norm(x, weight)

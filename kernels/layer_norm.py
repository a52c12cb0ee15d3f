"""Layer normalisation as it trains. Definition: kernels.reference.layer_norm."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fanal.kernels.norm_in_fp32 import norm_in_fp32


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, zero_centered: bool = False) -> Tensor:
    """Compute (x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimension, with torch's fused operation.

    torch's operation keeps its statistics in fp32 for bf16 inputs and rounds once. Not yet run on a GPU.

    Args: x [..., h]; weight and bias [h] of the same dtype as x, bias None for none; eps > 0, added to the variance;
        zero_centered: multiply by 1 + weight (LayerNorm1P of NeMo and Nemotron), the sum in fp32 at least, where
        transformers' Nemotron rounds it to the dtype of the weight. In bf16 that costs the norm a second time in the
        backward.
    Returns: [..., h] in x.dtype.
    Source: Ba, Kiros and Hinton, Layer Normalization, 2016 (arXiv:1607.06450).
    """
    parameters = (weight,) if bias is None else (weight, bias)
    for name, parameter in zip(("weight", "bias"), parameters, strict=False):
        assert parameter.shape == x.shape[-1:], (
            f"{name} {tuple(parameter.shape)} must match the last dim of x {tuple(x.shape)}"
        )
        # A CPU takes two dtypes, a GPU does not.
        assert parameter.dtype == x.dtype, f"{name} ({parameter.dtype}) and x ({x.dtype}) must have one dtype"

    def norm(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), weight + 1 if zero_centered else weight, bias, eps)

    narrow = torch.promote_types(x.dtype, torch.float32) != x.dtype
    return norm_in_fp32(norm, x, *parameters) if zero_centered and narrow else norm(x, *parameters)

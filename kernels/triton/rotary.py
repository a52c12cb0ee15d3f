"""Rotary embedding on fused queries, keys and values, through Triton. Definition: kernels.reference.rotary_embedding.

It splits Megatron's fused layout and turns queries and keys in one pass, where a split, a copy and a turn of each are several; it
holds cosines and sines alone. Kernels: device/rotary.py. Not yet run on a GPU.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.triton import launch
from fanal.kernels.triton.rows import as_rows, power_of_two, warps_for


class _RotaryQKV(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, mixed: Tensor, cos: Tensor, sin: Tensor, head_size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        s, b, g, width = mixed.shape
        queries = width // head_size - 2
        query, key, value = (
            torch.empty((s, b, heads, head_size), dtype=mixed.dtype, device=mixed.device)
            for heads in (g * queries, g, g)
        )
        tokens = as_rows(mixed.flatten(2))
        constants, num_warps = _sizes(queries, head_size, 2 * cos.shape[1])
        launch.start(
            "rotary.forward",
            (s * b, g),
            *(tokens, cos, sin, query, key, value, tokens.stride(0), b, g),
            num_warps=num_warps,
            **constants,
        )
        ctx.save_for_backward(cos, sin)
        ctx.queries = queries  # pyright: ignore[reportAttributeAccessIssue]
        return query, key, value

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: FunctionCtx, d_query: Tensor, d_key: Tensor, d_value: Tensor
    ) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        s, b, g, head_size = d_key.shape
        queries: int = ctx.queries  # pyright: ignore[reportAttributeAccessIssue]
        d_mixed = torch.empty((s, b, g, (queries + 2) * head_size), dtype=d_key.dtype, device=d_key.device)
        constants, num_warps = _sizes(queries, head_size, 2 * cos.shape[1])
        launch.start(
            "rotary.backward",
            (s * b, g),
            *(d_query.contiguous(), d_key.contiguous(), d_value.contiguous(), cos, sin, d_mixed, b, g),
            num_warps=num_warps,
            **constants,
        )
        return d_mixed, None, None, None


def rotary_qkv(mixed: Tensor, cos: Tensor, sin: Tensor, head_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split fused queries, keys and values, and turn the queries and keys by the angles of their positions.

    Args: mixed [s, b, g, (n/g + 2) * d], each group's queries, then its key, then its value (Megatron's linear_qkv); cos, sin
        [s, r/2], fp32, as rotary_tables; r up to d: the channels beyond it are copied (rotary_percent below one); head_size d.
    Returns: query [s, b, n, d], key and value [s, b, g, d], each in one piece, in mixed.dtype; rounded once.
    Source: Su et al., RoFormer, 2021 (arXiv:2104.09864); halves, not neighbours, as in kernels.reference.
    """
    assert mixed.dim() == 4 and mixed.shape[3] % head_size == 0 and mixed.shape[3] >= 3 * head_size, (
        f"mixed {tuple(mixed.shape)} must be [s, b, g, (n/g + 2) * {head_size}]"
    )
    assert cos.shape == sin.shape and cos.dtype == sin.dtype == torch.float32, "cos and sin must be fp32 of one shape"
    assert len(cos) == len(mixed), f"{len(cos)} positions of angles do not fit {len(mixed)} of mixed"
    assert 2 * cos.shape[1] <= head_size, f"{2 * cos.shape[1]} channels turn, more than a head has ({head_size})"
    return _RotaryQKV.apply(mixed, cos.contiguous(), sin.contiguous(), head_size)  # pyright: ignore[reportReturnType]


def rotary_tables(angles: Tensor, magnitude: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of angles, fp32 [s, r/2], once for all layers of a step.

    Args: angles [s, r/2], as kernels.reference.rotary_angles; magnitude, what queries and keys are multiplied by as they
        turn (yarn_attention_factor).
    """
    angles = angles.float()
    return angles.cos() * magnitude, angles.sin() * magnitude


def _sizes(queries: int, head_size: int, turned: int) -> tuple[dict[str, int], int]:
    """Return the constants of the kernels, and their warps."""
    heads, half = power_of_two(queries + 2), power_of_two(turned // 2)
    constants = {
        "QUERIES": queries,
        "HEAD_SIZE": head_size,
        "TURNED": turned,
        "HEADS_BLOCK": heads,
        "HALF_BLOCK": half,
        "REST_BLOCK": power_of_two(max(head_size - turned, 1)),
    }
    return constants, warps_for(heads * half, per_thread=8)

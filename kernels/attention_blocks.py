"""Causal attention in blocks of queries, each against the slice of keys it sees: for windows, and for caps on the scores.

torch's scaled_dot_product_attention takes a window only as a mask, and the mask of all positions costs the s^2 that a
window is there to avoid; a cap it does not take at all. A block of B queries with a window of w meets B + w - 1 keys: the
whole costs s * (B + w) and not s^2, forward and backward. Between the two it holds query, key and value alone, and the
backward computes each block again: one more forward. No host sync, and keys and values are not repeated for the heads of
a group: the queries of those heads lie one after the other instead, as a longer block. Not yet run on a GPU.

Measured on one CPU core, torch 2.13.0, b=1, n=8, g=2, d 64, w = s/8, cap 50, forward and backward: CPU time of the process,
the best of 3 to 8 in turns, against plain causal attention (63, 48, 740 and 572 ms); in brackets the largest number of MiB
allocated at a time above the inputs, by torch.profiler.
                          s=1,024 fp32   s=1,024 bf16   s=4,096 fp32   s=4,096 bf16
    plain causal          1    (8.0)     1    (5.3)     1    (29)      1    (16)
    window as one mask    1.40 (12)      1.38 (7.3)     1.90 (93)      1.97 (53)
    window in blocks      0.44 (8.4)     0.66 (4.9)     0.47 (38)      0.53 (22)
    window and cap        0.57 (9.6)     0.77 (6.6)     0.51 (35)      0.70 (23)
    cap alone             1.57 (19)      1.97 (16)      2.00 (73)      2.69 (63)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

MIN_BLOCK, MAX_BLOCK = 64, 512
CAPPED_BLOCK = 64
"""Queries of a block. With a window a half of it, within bounds: fewer waste fewer products, more fill the cores better.
With a cap the scores of a block, [b, n, B, keys] in fp32, lie in memory several times while it runs."""

Block = tuple[int, int, int, int]
"""First query, end of queries, first key, end of keys: the last query and the last key are of one position."""
Attend = Callable[[Block, Tensor, Tensor, Tensor], Tensor]


class _BlockByBlock(torch.autograd.Function):
    """Attend block by block, forward and, anew, backward. Gradients of keys and values sum in fp32 at least."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, blocks: list[Block], attend: Attend
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.blocks, ctx.attend = blocks, attend  # pyright: ignore[reportAttributeAccessIssue]
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        for block in blocks:
            first, end, first_key, end_key = block
            output[first:end] = attend(block, query[first:end], key[first_key:end_key], value[first_key:end_key])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        wide = torch.promote_types(query.dtype, torch.float32)
        for_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        for_key, for_value = (tensor.new_zeros(tensor.shape, dtype=wide) for tensor in (key, value))
        for block in ctx.blocks:  # pyright: ignore[reportAttributeAccessIssue]
            first, end, first_key, end_key = block
            slices = (query[first:end], key[first_key:end_key], value[first_key:end_key])
            leaves = [tensor.detach().requires_grad_() for tensor in slices]
            with torch.enable_grad():
                output = ctx.attend(block, *leaves)  # pyright: ignore[reportAttributeAccessIssue]
            for_query[first:end], for_keys, for_values = torch.autograd.grad(output, leaves, gradient[first:end])
            for_key[first_key:end_key] += for_keys
            for_value[first_key:end_key] += for_values
        return for_query, for_key.to(key.dtype), for_value.to(value.dtype), None, None


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    window: int | None,
    soft_cap: float | None,
    documents: Tensor | None = None,
) -> Tensor:
    """Compute causal attention with a window, a cap on the scores, or both, block after block.

    Args: query [q, b, n, d], those of the last q positions; key, value [s, b, g, d]; window and soft_cap as in
        kernels.attention; documents [b, s]: the number of the document of each position, or None for one document per row.
    Returns: [q, b, n, d].
    """
    num_groups = key.shape[2]
    scale = query.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    masks: dict[tuple[int, int], Tensor] = {}  # of blocks that are alike: all but the first few and the last

    def mask(block: Block) -> Tensor:
        """Return 0 where seen, -inf elsewhere: [B, keys], or [b, 1, B, keys]. torch would make it of a boolean each time."""
        alike = (block[1] - block[0], block[3] - block[2])
        if alike in masks:
            return masks[alike]
        seen = _seen(block, window, documents, query.device)
        made = torch.zeros(seen.shape, dtype=query.dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
        if documents is None and soft_cap is None:
            masks[alike] = made
        return made

    def attend(block: Block, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend in one block. [B, b, n, d], [keys, b, g, d] twice -> [B, b, n, d]"""
        # The heads of a group (r = n / g) one after the other, [b, g, r * B, d]; a copy where r > 1.
        stacked = q.unflatten(2, (num_groups, -1)).permute(1, 2, 3, 0, 4).flatten(2, 3)
        k, v = k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3)
        if soft_cap is None:
            bias = mask(block)
            repeated = bias.repeat(*(1,) * (bias.dim() - 2), query.shape[2] // num_groups, 1)
            output = F.scaled_dot_product_attention(stacked, k, v, attn_mask=repeated, scale=scale)
        else:
            output = _capped(stacked, k, v, mask(block), scale, soft_cap)
        return output.unflatten(2, (-1, len(q))).permute(3, 0, 1, 2, 4).flatten(2, 3)

    return _BlockByBlock.apply(query, key, value, _blocks(len(query), len(key), window, soft_cap), attend)  # pyright: ignore[reportReturnType]


def _blocks(num_queries: int, seq_length: int, window: int | None, soft_cap: float | None) -> list[Block]:
    rows = num_queries if window is None else min(max(window // 2, MIN_BLOCK), MAX_BLOCK)
    rows = min(rows, CAPPED_BLOCK) if soft_cap is not None else rows
    behind = seq_length - num_queries  # position of the first query
    found = []
    for first in range(0, num_queries, rows):
        end = min(first + rows, num_queries)
        first_key = 0 if window is None else max(0, behind + first - window + 1)
        found.append((first, end, first_key, behind + end))
    return found


def _seen(block: Block, window: int | None, documents: Tensor | None, device: torch.device) -> Tensor:
    """Return which keys each query of a block sees: [B, keys], or [b, 1, B, keys] with documents."""
    first, end, first_key, end_key = block
    keys = torch.arange(first_key, end_key, device=device)
    queries = keys[first - end :, None]
    seen = keys <= queries
    if window is not None:
        seen &= keys > queries - window
    if documents is None:
        return seen
    of_keys = documents[:, first_key:end_key]
    return (seen & (of_keys[:, first - end :, None] == of_keys[:, None, :]))[:, None]


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, soft_cap: float) -> Tensor:
    """Compute attention with capped scores, in fp32 at least, one rounding. [b, g, r * B, d], [b, g, keys, d] twice.

    On a GPU these products run in fp32, without the tensor cores of bf16: there "flash" is the backend for a cap.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = (query.to(wide) * scale) @ key.to(wide).transpose(-1, -2)  # [b, g, r * B, keys]
    by_head = (soft_cap * torch.tanh(scores / soft_cap)).unflatten(2, (-1, mask.shape[-2]))  # [b, g, r, B, keys]
    masked = by_head + (mask if mask.dim() == 2 else mask[:, :, None])
    return (masked.softmax(dim=-1).flatten(2, 3) @ value.to(wide)).to(query.dtype)

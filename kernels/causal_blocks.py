"""Causal attention on a CPU, block of queries by block of queries, each against the keys it sees.

The queries of a block, those of all heads of a group one after the other, meet the keys up to their last one: half of the
products of the whole square, and a window cuts more. The scores of a block stay in a core's cache. Held for the backward are
query, key, value, the output, and the logarithm of each softmax's denominator; scores are computed again. Softmax and its
gradient are in fp32 at least, as are the scores and their gradients before they are rounded; the other products take the type
of the inputs, as in flash attention (Dao, 2023, arXiv:2307.08691), whose formulas these are:

    P = exp(S - L)    D = rowsum(dO * O)    dV = P^T dO    dP = dO V^T    dS = P * (dP - D)    dQ = dS K    dK = dS^T Q

Measured on one core of an AMD EPYC (Zen 5), torch 2.13.0, forward and backward, CPU time, best of 6 in turns, against torch's
own CPU kernel, or with a window kernels.attention_blocks (which runs torch's kernel); d = 64:
                                                     fp32          bf16
    s=512, b=4, n=8, g=4                          65 of 85 ms   49 of 72 ms
    s=2,048, b=1, n=8, g=2                       161 of 203    127 of 153
    s=4,096, b=1, n=8, g=2, window 512           229 of 361    216 of 343
    s=512, b=4, n=8, g=4, window 100, cap 20      42 of 56      44 of 66
Largest error against fp64, bf16, s=512: output and gradients of query, key and value 3.0e-3, 4.2e-3, 5.2e-3 and 3.3e-3 of the
largest number; torch's kernel 2.2e-3, 4.2e-3, 9.6e-3 and 8.0e-3.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels import products

ROWS, LONG_ROWS, LONG = 128, 256, 1_024
"""Rows of scores of a block, up to a length and beyond it: fewer waste fewer products, more fill the cores better."""
MIN_QUERIES = 16
SCORES = 262_144
"""Scores that lie in memory at a time, 1 MiB: those of a block for as many rows of the batch and groups as go into it."""

Block = tuple[int, int, int, int]
"""First query, end of queries, first key, end of keys: the last query and the last key are of one position."""


class _CausalBlocks(torch.autograd.Function):
    """[p, r, q, d], [p, s, d] twice -> [p, r, q, d]; p rows of the batch times groups, r heads of a group."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        window: int | None,
        soft_cap: float | None,
    ) -> Tensor:
        wide = torch.promote_types(query.dtype, torch.float32)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        log_sums = query.new_empty(query.shape[:-1], dtype=wide)
        masks = _Masks(window, wide)
        keys = key.to(wide).transpose(1, 2)
        for part, block in blocks(query, key.shape[1], window):
            first, end, first_key, end_key = block
            scores = products.batched(_rows(query, part, block).to(wide).mul(scale), keys[part, :, first_key:end_key])
            if soft_cap is not None:
                scores.div_(soft_cap).tanh_().mul_(soft_cap)
            masks.hide(scores, block)
            largest = scores.amax(dim=-1, keepdim=True)
            total = scores.sub_(largest).exp_().sum(dim=-1, keepdim=True)
            context = products.batched(scores.to(value.dtype), value[part, first_key:end_key])
            _rows_into(output, part, block, context.div_(total))
            log_sums[part, :, first:end] = total.log_().add_(largest).view(len(total), -1, end - first)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.scale, ctx.masks, ctx.soft_cap = scale, masks, soft_cap  # pyright: ignore[reportAttributeAccessIssue]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, output, log_sums = ctx.saved_tensors
        wide, narrow = log_sums.dtype, query.dtype
        for_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        for_key, for_value = key.new_zeros(key.shape, dtype=wide), value.new_zeros(value.shape, dtype=wide)
        kept = (gradient.to(wide) * output.to(wide)).sum(dim=-1)  # D, [p, r, q]
        keys, values = key.to(wide).transpose(1, 2), value.to(wide).transpose(1, 2)
        for part, block in blocks(query, key.shape[1], ctx.masks.window):
            _, _, first_key, end_key = block
            q, g = _rows(query, part, block), _rows(gradient, part, block)
            scores = products.batched(q.to(wide).mul(ctx.scale), keys[part, :, first_key:end_key])
            slope = None
            if ctx.soft_cap is not None:
                bounded = scores.div_(ctx.soft_cap).tanh_()
                slope = bounded.square().neg_().add_(1)
                scores = bounded.mul_(ctx.soft_cap)
            ctx.masks.hide(scores, block)
            shares = scores.sub_(_column(log_sums, part, block)).exp_()
            of_scores = products.batched(g.to(wide), values[part, :, first_key:end_key])
            of_scores.sub_(_column(kept, part, block)).mul_(shares)
            if slope is not None:
                of_scores.mul_(slope)
            _add_product(for_value[part, first_key:end_key], shares.to(narrow).transpose(1, 2), g)
            rounded = of_scores.to(narrow)
            _add_product(for_key[part, first_key:end_key], rounded.transpose(1, 2), q)
            _rows_into(for_query, part, block, products.batched(rounded, key[part, first_key:end_key]).mul_(ctx.scale))
        return for_query, for_key.mul_(ctx.scale).to(narrow), for_value.to(narrow), None, None, None


def _rows(tensor: Tensor, part: slice, block: Block) -> Tensor:
    """Return the queries of a block, the heads of a group one after the other. [p, r, q, d] -> [part, r * queries, d]"""
    return tensor[part, :, block[0] : block[1]].flatten(1, 2)


def _rows_into(tensor: Tensor, part: slice, block: Block, rows: Tensor) -> None:
    """Write what belongs to the queries of a block to its place. tensor [p, r, q, d]; rows [part, r * queries, d]"""
    tensor[part, :, block[0] : block[1]] = rows.unflatten(1, (tensor.shape[1], -1))


def _column(tensor: Tensor, part: slice, block: Block) -> Tensor:
    """Return a number of each query of a block. [p, r, q] -> [part, r * queries, 1]"""
    return tensor[part, :, block[0] : block[1]].flatten(1, 2).unsqueeze(-1)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to total, which is in fp32 at least."""
    total += products.batched(left, right)


class _Masks:
    """What hides keys from the queries of a block, made once for blocks that are alike."""

    def __init__(self, window: int | None, dtype: torch.dtype) -> None:
        self.window, self.dtype = window, dtype
        self._made: dict[tuple[int, int, bool], Tensor] = {}

    def hide(self, scores: Tensor, block: Block) -> None:
        """Add -inf where a query does not see a key. scores [part, r * queries, keys]"""
        first, end, first_key, end_key = block
        queries, keys = end - first, end_key - first_key
        by_head = scores.view(len(scores), -1, queries, keys)
        by_head[..., keys - queries :] += self._square(queries, 1, above=True)  # keys behind a query
        if self.window is not None and keys > self.window:  # keys that the block's last queries have left behind
            by_head[..., :queries] += self._square(queries, keys - queries - self.window, above=False)

    def _square(self, size: int, diagonal: int, *, above: bool) -> Tensor:
        like = (size, diagonal, above)
        if like not in self._made:
            hidden = torch.ones(size, size, dtype=torch.bool)
            hidden = hidden.triu(diagonal) if above else hidden.tril(diagonal)
            self._made[like] = torch.zeros(size, size, dtype=self.dtype).masked_fill_(hidden, float("-inf"))
        return self._made[like]


def causal_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """Compute causal attention with a window, a cap on the scores, or neither.

    Args: query [q, b, n, d], those of the last q positions; key, value [s, b, g, d]; the others as in
        kernels.attention.causal_attention.
    Returns: [q, b, n, d], a view of [b, n, q, d].
    """
    num_queries, batch, num_heads, head_size = query.shape
    seq_length, groups = key.shape[0], key.shape[2]
    scale = head_size**-0.5 if softmax_scale is None else softmax_scale
    grouped = query.permute(1, 2, 0, 3).reshape(batch * groups, num_heads // groups, num_queries, head_size)
    by_group = (
        tensor.permute(1, 2, 0, 3).contiguous().view(batch * groups, seq_length, head_size) for tensor in (key, value)
    )
    output: Any = _CausalBlocks.apply(grouped, *by_group, scale, window, soft_cap)
    return output.view(batch, num_heads, num_queries, head_size).permute(2, 0, 1, 3)


def blocks(query: Tensor, seq_length: int, window: int | None) -> Iterator[tuple[slice, Block]]:
    """Yield the blocks of a sequence, and which of the pairs of row and group meet them together. query [p, r, q, d]"""
    pairs, heads, num_queries, _ = query.shape
    behind = seq_length - num_queries
    queries = max((ROWS if seq_length <= LONG else LONG_ROWS) // heads, MIN_QUERIES)
    for first in range(0, num_queries, queries):
        end = min(first + queries, num_queries)
        first_key, end_key = 0 if window is None else max(0, behind + first - window + 1), behind + end
        together = max(1, SCORES // (heads * queries * (end_key - first_key)))
        for pair in range(0, pairs, together):
            yield slice(pair, min(pair + together, pairs)), (first, end, first_key, end_key)

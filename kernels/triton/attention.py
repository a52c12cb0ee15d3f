"""Causal attention with grouped queries through Triton: the backend that needs no package but Triton.

Definition: kernels.reference.causal_grouped_attention; kernels: device/attention.py and device/attention_backward.py. It holds the
inputs, the output and one fp32 number for each query of each head; its backward gives the same bits each time. Not yet run on a
GPU.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from fanal.kernels.reference import document_ids
from fanal.kernels.triton import launch
from fanal.kernels.triton.rows import DTYPES, parts, power_of_two

MAX_HEAD_SIZE = 256
ON_AMD = torch.version.hip is not None


@dataclass(frozen=True)
class Tiles:
    """How many queries and keys a program takes at a time, and by how many warps."""

    rows: int
    keys: int
    warps: int
    stages: int = 2


def tiles(head_size: int, dtype: torch.dtype, amd: bool) -> tuple[Tiles, Tiles, Tiles]:
    """Return the tiles of the forward, of dQ, and of dK and dV: those that spill no register on NVIDIA's GPUs.

    Where two blocks in flight would spill, there is one. Tuned for that alone, by compiling ahead, not for time.
    """
    if dtype == torch.float32:
        chosen = Tiles(32, 32, 8, 1), Tiles(32, 32, 8, 1), Tiles(32, 32, 8, 1)
    elif head_size <= 64:
        chosen = Tiles(128, 64, 8), Tiles(64, 32, 4), Tiles(16, 64, 4)
    elif head_size <= 128:
        chosen = Tiles(128, 64, 8), Tiles(64, 64, 8), Tiles(32, 64, 8, 1)
    else:
        chosen = Tiles(64, 32, 8), Tiles(64, 16, 8), Tiles(32, 32, 8, 1)
    # A warp of AMD has 64 threads, and half as many warps leave each thread twice the registers.
    forward, for_queries, for_keys = (
        replace(tile, warps=tile.warps // 2, stages=1) if amd else tile for tile in chosen
    )
    return forward, for_queries, for_keys


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        first: Tensor | None,
        last: Tensor | None,
        scale: float,
        soft_cap: float | None,
    ) -> Tensor:
        query, key, value = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (query, key, value))
        q, b, n, _ = query.shape
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        log_total = torch.empty((b, n, q), dtype=torch.float32, device=query.device)
        tile = tiles(query.shape[3], query.dtype, ON_AMD)[0]
        of_queries = first if first is None else first[:, key.shape[0] - q :].contiguous()
        launch.start(
            "attention.forward",
            (parts(q, tile.rows), n, b),
            *(query, key, value, of_queries, output, log_total),
            *_numbers(query, key, value, n, scale, soft_cap),
            **_constants(query, key, tile, first, soft_cap),
        )
        ctx.save_for_backward(query, key, value, first, last, output, log_total)  # pyright: ignore[reportArgumentType]  (None is taken)
        ctx.numbers = scale, soft_cap  # pyright: ignore[reportAttributeAccessIssue]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, first, last, output, log_total = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        scale, soft_cap = ctx.numbers  # pyright: ignore[reportAttributeAccessIssue]
        (q, b, n, _), (s, _, g, _) = query.shape, key.shape
        d_output = d_output.contiguous()
        d_query, d_key, d_value = (
            torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in (query, key, value)
        )
        delta = torch.empty_like(log_total)
        _, for_queries, for_keys = tiles(query.shape[3], query.dtype, ON_AMD)
        launch.start(
            "attention_backward.for_queries",
            (parts(q, for_queries.rows), n, b),
            *(query, key, value, first, output, d_output, log_total, delta, d_query),
            *_numbers(query, key, value, n, scale, soft_cap),
            **_constants(query, key, for_queries, first, soft_cap),
        )
        launch.start(
            "attention_backward.for_keys",
            (parts(s, for_keys.keys), g, b),
            *(query, key, value, last, d_output, log_total, delta, d_key, d_value),
            *_numbers(query, key, value, g, scale, soft_cap),
            **_constants(query, key, for_keys, last, soft_cap),
        )
        return d_query, d_key, d_value, None, None, None, None


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None = None,
    document_starts: Tensor | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    """Compute causal attention with grouped queries. No host sync; the same bits each time.

    Args: query [q, b, n, d], those of the last q positions; key, value [s, b, g, d], g dividing n, d up to 256, each with any
        strides; softmax_scale multiplies the scores, 1/sqrt(d) if None; document_starts, int32 [documents + 1], the first token
        of every document when the rows of all s positions lie one after the other, and last b * s (with b = 1 what others call
        cu_seqlens); window, how many positions a position sees at most, itself included; soft_cap bounds the scaled scores.
    Returns: [q, b, n, d] in query.dtype.
    Source: Dao, FlashAttention-2, 2023 (arXiv:2307.08691).
    """
    (q, b, n, d), (s, _, g, _) = query.shape, key.shape
    assert key.shape == value.shape == (s, b, g, d), (
        f"key {tuple(key.shape)} and value {tuple(value.shape)} must be {(s, b, g, d)}"
    )
    assert q <= s, f"queries ({q}) must not outnumber keys ({s})"
    assert n % g == 0, f"query heads ({n}) must be a multiple of groups ({g})"
    assert d <= MAX_HEAD_SIZE, f"head_size ({d}) is larger than {MAX_HEAD_SIZE}"
    assert query.dtype in DTYPES and query.dtype == key.dtype == value.dtype, (
        f"{query.dtype}, {key.dtype}, {value.dtype}"
    )
    first, last = visible_ranges(s, b, document_starts, window, query.device)
    scale = d**-0.5 if softmax_scale is None else softmax_scale
    return _FlashAttention.apply(query, key, value, first, last, scale, soft_cap)  # pyright: ignore[reportReturnType]


def visible_ranges(
    s: int, b: int, document_starts: Tensor | None, window: int | None, device: torch.device
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return the first position that each position sees, and the last one that sees it; None if that is all before it.

    Both grow along a row, which the kernels rely on. A dozen small operations on the device, no host sync.

    Returns: two tensors [b, s], int32, counted from the start of the row.
    """
    if document_starts is None and (window is None or window >= s):
        return None, None
    position = torch.arange(s, dtype=torch.int32, device=device).expand(b, s)
    first, last = torch.zeros_like(position), torch.full_like(position, s - 1)
    if document_starts is not None:
        starts = document_starts.to(torch.int32)
        document = document_ids(starts, b, s)  # [b, s]
        row_start = (torch.arange(b, dtype=torch.int32, device=device) * s)[:, None]
        first, last = starts[document] - row_start, starts[document + 1] - 1 - row_start
    if window is not None:
        assert window >= 1, f"window ({window}) must be at least 1: a position sees itself"
        first = torch.maximum(first, position - (window - 1))
        last = torch.minimum(last, position + (window - 1))
    return first.contiguous(), last.contiguous()


def _numbers(
    query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float, soft_cap: float | None
) -> list[int | float]:
    strides = [tensor.stride(i) for tensor in (query, key, value) for i in range(3)]
    return [*strides, query.shape[0], key.shape[0], query.shape[1], heads, float(scale), float(soft_cap or 0)]


def _constants(
    query: Tensor, key: Tensor, tile: Tiles, ranges: Tensor | None, soft_cap: float | None
) -> dict[str, int]:
    head_size = query.shape[3]
    return {
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "RATIO": query.shape[2] // key.shape[2],
        "HEAD_SIZE": head_size,
        "D": max(power_of_two(head_size), 16),
        "ROWS": tile.rows,
        "KEYS": tile.keys,
        "RANGES": ranges is not None,
        "CAP": soft_cap is not None,
    }

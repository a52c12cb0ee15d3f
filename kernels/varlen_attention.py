"""Causal attention through torch's own varlen_attn: documents and windows in a kernel, without another package.

Shapes and definition: kernels.attention. Not yet run on a GPU: its shapes and its backward are tested on fake tensors, its
arguments by a stand-in of its documentation. The kernel is the flash attention that torch is built with: where a document has fewer
queries than keys, the causal mask and windows are aligned to its end, and keys that no query sees get gradients of zero.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fanal.kernels.attention_backend import Backend, Situation, fused_obstacles
from fanal.kernels.packing import pack, query_starts, unpack

try:
    from torch.nn.attention.varlen import varlen_attn

    IMPORT_ERROR = ""
except ImportError as error:  # torch 2.10 has it; a vendor's build may leave it out
    varlen_attn = None
    IMPORT_ERROR = str(error)


def obstacles(situation: Situation) -> list[str]:
    """Return why it cannot run."""
    found = fused_obstacles(situation, multiple_of=8)
    if varlen_attn is None:
        found.append(f"this torch ({torch.__version__}) has no varlen_attn ({IMPORT_ERROR})")
    if situation.soft_cap is not None:
        found.append(f"torch's kernel takes no cap on the scores ({situation.soft_cap})")
    return found


def call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    document_starts: Tensor | None,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    """Call varlen_attn on packed tokens; without documents each row is one. [q, b, n, d], [s, b, g, d] twice -> [q, b, n, d]

    Packing costs a copy of each tensor where b > 1. Under torch.use_deterministic_algorithms its backward adds up in order.
    """
    assert varlen_attn is not None and soft_cap is None, "a backend with obstacles is refused before"
    num_queries, batch, num_heads, _ = query.shape
    num_keys = len(key)
    if document_starts is None:
        document_starts = torch.arange(0, (batch + 1) * num_keys, num_keys, dtype=torch.int32, device=query.device)
    options: dict[str, Any] = {"scale": softmax_scale, "window_size": (-1 if window is None else window - 1, 0)}
    if num_heads != key.shape[2]:
        if _groups_queries(varlen_attn):
            options["enable_gqa"] = True
        else:
            repeats = num_heads // key.shape[2]
            key, value = (tensor.repeat_interleave(repeats, dim=2) for tensor in (key, value))
    output = varlen_attn(
        pack(query),
        pack(key),
        pack(value),
        query_starts(document_starts, num_keys=num_keys, num_queries=num_queries),
        document_starts,
        num_queries,  # an upper bound is enough: the true maximum would cost a host sync
        num_keys,
        **options,
    )
    assert isinstance(output, Tensor), "without return_aux there is one result"
    return unpack(output, query)


@functools.cache
def _groups_queries(function: Callable[..., Any]) -> bool:
    """Say whether this torch's varlen_attn is documented to group queries: from 2.12 on."""
    return "enable_gqa" in inspect.signature(function).parameters


VARLEN = Backend(name="varlen", obstacles=obstacles, call=call)

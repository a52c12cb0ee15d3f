"""What the three flash-attn packages share: their import, when it is first asked for, and one form of call, as a backend.

Shapes and definition: kernels.attention. They group queries, keep documents apart, and take windows and caps natively. Where a
document has fewer queries than keys, their causal mask and their windows are aligned to its end (flash-attn since 2.1). Keys that
no query sees get gradients of zero, also those of a document without queries: so in the sources of flash-attn from 2.3.4 on, of 3
and of 4.0.0b36.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fanal.kernels.attention_backend import Backend, Situation
from fanal.kernels.packing import pack, query_starts, unpack


@dataclass(frozen=True)
class FlashFunctions:
    """The two functions of a package, or why there are none."""

    dense: Callable[..., Any] | None
    """flash_attn_func: [b, s, n, d]."""
    packed: Callable[..., Any] | None
    """flash_attn_varlen_func: [tokens, n, d] and the first token of each document."""
    error: str = ""


def flash_backend(
    name: str, package: str, obstacles: Callable[[Situation], list[str]], *, everything: int | None
) -> Backend:
    """Return a package as a backend. It is imported for a GPU alone, when it is first asked for.

    Args: obstacles: of its kernels; those of the package are added; everything: the package's word for "all positions before".
    """

    def of_both(situation: Situation) -> list[str]:
        found = obstacles(situation)
        if situation.device_type != "cuda":
            return found
        return found + package_obstacles(package, import_functions(package), situation)

    def call(query: Tensor, key: Tensor, value: Tensor, *options) -> Tensor:
        return call_flash(import_functions(package), everything, query, key, value, *options)

    return Backend(name=name, obstacles=of_both, call=call)


@functools.cache
def import_functions(module: str) -> FlashFunctions:
    """Import a package's functions, once. Not at this project's own import: flash-attn 4 took 25 s on one machine."""
    try:
        package = importlib.import_module(module)
        return FlashFunctions(package.flash_attn_func, package.flash_attn_varlen_func)
    except (
        ImportError,
        AttributeError,
        OSError,
        RuntimeError,
    ) as error:  # absent, of another torch, or another package's folder
        return FlashFunctions(None, None, " ".join(str(error).split()))


def package_obstacles(package: str, functions: FlashFunctions, situation: Situation) -> list[str]:
    """Return what a package lacks: itself, or an argument that this situation needs."""
    if functions.dense is None or functions.packed is None:
        return [f"{package} is not importable ({functions.error})"]
    needed = {"window_size": situation.window is not None, "softcap": situation.soft_cap is not None}
    needed["deterministic"] = situation.deterministic
    function = functions.packed if situation.documents else functions.dense
    known = inspect.signature(function).parameters
    missing = [name for name, is_needed in needed.items() if is_needed and name not in known]
    return [f"the installed {package} takes no {', '.join(missing)}, newer ones do"] if missing else []


def call_flash(
    functions: FlashFunctions,
    everything: int | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    softmax_scale: float | None,
    document_starts: Tensor | None,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    """Call a package: rows as they are, documents packed.

    Args: everything, the package's word for "all positions before"; then as in kernels.attention.causal_attention.
    Returns: [q, b, n, d].
    """
    assert functions.dense is not None and functions.packed is not None, "a backend with obstacles is refused before"
    options: dict[str, Any] = {"softmax_scale": softmax_scale, "causal": True}
    if window is not None:
        options["window_size"] = (window - 1, 0)  # positions seen before and after a position, itself not counted
    elif everything is not None:
        options["window_size"] = (everything, everything)
    if soft_cap is not None:
        options["softcap"] = soft_cap
    if torch.are_deterministic_algorithms_enabled():
        # Else the backward adds up the gradient of queries by atomics, in the order in which blocks come to an end.
        options["deterministic"] = True
    if document_starts is None:
        # [q, b, n, d] -> [b, q, n, d]: a view, since only the last dimension needs to be contiguous.
        batch_first = (tensor.transpose(0, 1) for tensor in (query, key, value))
        return _output(functions.dense(*batch_first, **options)).transpose(0, 1)
    num_queries, num_keys = len(query), len(key)
    output = functions.packed(
        *(pack(tensor) for tensor in (query, key, value)),
        cu_seqlens_q=query_starts(document_starts, num_keys=num_keys, num_queries=num_queries),
        cu_seqlens_k=document_starts,
        # An upper bound is enough, blocks past a document's end return at once; the true maximum would cost a host sync.
        max_seqlen_q=num_queries,
        max_seqlen_k=num_keys,
        **options,
    )
    return unpack(_output(output), query)


def _output(result: Any) -> Tensor:
    """Return the output alone: flash-attn 4, and 3 up to 2025, give the logarithms of the denominators with it."""
    return result[0] if isinstance(result, tuple) else result

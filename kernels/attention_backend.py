"""What a backend of attention is, and what it is asked for: the situation of a model on a device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FUSED_DTYPES = (torch.bfloat16, torch.float16)
"""Types that the fused kernels take, all of them."""
MAX_FUSED_HEAD_SIZE = 256
"""Largest head size that flash-attn 2 and 3, and torch's own flash kernel, are built for."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that decides whether a backend can run. Heads are those of one rank."""

    device_type: str
    """cuda or cpu."""
    dtype: torch.dtype
    """Of queries, keys and values."""
    head_size: int
    num_heads: int = 1
    num_groups: int = 1
    documents: bool = False
    """Whether rows are divided into documents."""
    fewer_queries: bool = False
    """Whether queries may be those of the last positions alone, fewer than the keys (context parallelism)."""
    window: int | None = None
    """Positions that a position sees, in the layers that have a window; None if none has."""
    soft_cap: float | None = None
    """Bound on the scores; None for none."""
    deterministic: bool = False
    """Whether the same bits must come out each time, in the backward too."""
    capability: tuple[int, int] | None = None
    """Compute capability of NVIDIA's GPU, such as (9, 0); None for others, of which the trial alone says something."""

    def __str__(self) -> str:
        parts = [
            self.device_type if self.capability is None else f"{self.device_type} {'.'.join(map(str, self.capability))}"
        ]
        parts += [str(self.dtype), f"head size {self.head_size}"]
        parts += ["documents"] if self.documents else []
        parts += ["fewer queries than keys"] if self.fewer_queries else []
        parts += [] if self.window is None else [f"window {self.window}"]
        parts += [] if self.soft_cap is None else [f"soft cap {self.soft_cap}"]
        parts += ["deterministic"] if self.deterministic else []
        return ", ".join(parts)


def nothing(situation: Situation) -> list[str]:
    """Say nothing, whatever the situation."""
    return []


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to compute attention."""

    name: str
    obstacles: Callable[[Situation], list[str]]
    """Every reason why it cannot run, so that one message names them all; empty if it can."""
    call: Callable[[Tensor, Tensor, Tensor, float | None, Tensor | None, int | None, float | None], Tensor]
    """Arguments as kernels.attention.causal_attention has them, without the backend; gives [q, b, n, d] or [q, b, n * d]."""
    costs: Callable[[Situation], list[str]] = nothing
    """What somebody should know who runs it in this situation: memory, or time."""


def fused_obstacles(situation: Situation, *, least: tuple[int, int] = (8, 0), multiple_of: int = 1) -> list[str]:
    """Return what keeps a fused CUDA kernel from running.

    Args: least, the compute capability from which on there are kernels; multiple_of, of the head size.
    """
    found = []
    if situation.device_type != "cuda":
        found.append(f"the device is {situation.device_type!r}")
    if situation.capability is not None and situation.capability < least:
        found.append(
            f"the GPU has compute capability {'.'.join(map(str, situation.capability))}, kernels need {'.'.join(map(str, least))}"
        )
    if situation.dtype not in FUSED_DTYPES:
        found.append(f"the dtype is {situation.dtype}")
    if situation.head_size > MAX_FUSED_HEAD_SIZE or situation.head_size % multiple_of:
        rule = f"up to {MAX_FUSED_HEAD_SIZE}" + (f", in steps of {multiple_of}" if multiple_of > 1 else "")
        found.append(f"the head size is {situation.head_size}, kernels have {rule}")
    return found

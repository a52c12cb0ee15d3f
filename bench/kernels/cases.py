"""Each operation at the sizes of a 7B model: what it is given, and the bytes that it cannot do without.

Shapes: 4,096 tokens (s) of a micro batch of one (b), h 4,096 hidden.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernels.recorded import Launch, recorded
from fanal.kernels.triton.rms_norm import add_rms_norm, rms_norm

TOKENS, HIDDEN = 4096, 4096
EPS = 1e-5


@dataclass(frozen=True)
class Case:
    """One operation on one set of shapes."""

    name: str
    operation: Callable[..., Tensor | tuple[Tensor, ...]]
    by_torch: Callable[..., Tensor | tuple[Tensor, ...]]
    """What trains today, of the same arguments."""
    shapes: Sequence[tuple[int, ...]]
    """Of the tensors that it is given and that get a gradient."""
    elements: int
    """By which bytes are counted."""
    least: tuple[float, float] | None
    """Bytes an element, forward and backward: each tensor of bf16 read once and written once. None where products count."""


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, EPS)


def _torch_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


def _add_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return add_rms_norm(x, residual, weight, EPS)


def _torch_add_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    return total, F.rms_norm(total, weight.shape, weight, EPS)


ROWS = (TOKENS, 1, HIDDEN)
CASES = (
    Case("RMSNorm", _norm, _torch_norm, (ROWS, (HIDDEN,)), TOKENS * HIDDEN, (4, 6)),
    Case("add + RMSNorm", _add_norm, _torch_add_norm, (ROWS, ROWS, (HIDDEN,)), TOKENS * HIDDEN, (8, 8)),
)


def launches(
    case: Case, device: str = "meta", dtype: torch.dtype = torch.bfloat16
) -> tuple[list[Launch], list[Launch]]:
    """What the forward starts, and what the backward starts."""
    tensors = [torch.empty(shape, dtype=dtype, device=device, requires_grad=True) for shape in case.shapes]
    with recorded() as forward:
        outputs = case.operation(*tensors)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    with recorded() as backward:
        torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])
    return forward, backward

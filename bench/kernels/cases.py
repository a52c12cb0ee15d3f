"""Each operation at the sizes of a 7B model: what it is given, and the bytes that it cannot do without.

Shapes: s = 4,096 tokens, a micro batch b of one, h = 4,096 hidden, f = 12,288 feed-forward, v = 128,256 vocabulary, n = 32 heads of
d = 128 in g = 8 groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernels.recorded import Launch, recorded
from fanal.kernels import cross_entropy as today
from fanal.kernels import reference
from fanal.kernels.attention import causal_attention
from fanal.kernels.triton import attention
from fanal.kernels.triton.activations import geglu, squared_relu, swiglu
from fanal.kernels.triton.adamw import adamw_step
from fanal.kernels.triton.attention import flash_attention
from fanal.kernels.triton.cross_entropy import TRITON
from fanal.kernels.triton.rms_norm import add_rms_norm, rms_norm
from fanal.kernels.triton.rotary import rotary_qkv, rotary_tables

S, B, H, FF, V = 4096, 1, 4096, 12_288, 128_256
HEADS, GROUPS, HEAD_SIZE = 32, 8, 128
SHARD = 2**26
EPS = 1e-5
BF16 = torch.bfloat16
Outputs = Tensor | tuple[Tensor, ...] | None


@dataclass(frozen=True)
class Case:
    """One operation on one set of shapes."""

    name: str
    operation: Callable[..., Outputs]
    by_torch: Callable[..., Outputs]
    """What trains today, or would without a kernel, of the same arguments."""
    inputs: Callable[[str], Sequence[Tensor]]
    """What it is given on a device; on "meta" tensors without contents."""
    elements: int
    """By which bytes are counted."""
    least: tuple[float, float] | None
    """Bytes an element, forward and backward, each tensor read once and written once. None where products count."""


def _leaf(device: str, *shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(shape, dtype=dtype, device=device).requires_grad_()


def _labels(device: str) -> Tensor:
    return torch.randint(0, V, (S, B), device=device)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, EPS)


def _torch_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


def _add_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return add_rms_norm(x, residual, weight, EPS)


def _torch_add_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    return total, F.rms_norm(total, weight.shape, weight, EPS)


def _torch_swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def _torch_geglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def _torch_squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return TRITON(logits, labels, None)


def _torch_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return today.TORCH(logits, labels, None)


def _rotary(mixed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return rotary_qkv(mixed, cos, sin, HEAD_SIZE)


def _torch_rotary(mixed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = mixed.split([HEADS // GROUPS * HEAD_SIZE, HEAD_SIZE, HEAD_SIZE], dim=-1)

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        c, s = cos[:, None, None].to(x.dtype), sin[:, None, None].to(x.dtype)
        return torch.cat([first * c - second * s, second * c + first * s], dim=-1)

    return turn(query.reshape(*mixed.shape[:2], HEADS, HEAD_SIZE)), turn(key), value


def _rotary_inputs(device: str) -> list[Tensor]:
    angles = reference.rotary_angles(S, reference.rotary_frequencies(HEAD_SIZE, 5e5, torch.device(device)))
    return [_leaf(device, S, B, GROUPS, (HEADS // GROUPS + 2) * HEAD_SIZE), *rotary_tables(angles)]


ADAM: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def _adamw(main: Tensor, m: Tensor, v: Tensor, gradient: Tensor, copy: Tensor, clip: Tensor) -> None:
    adamw_step(main, m, v, gradient, learning_rate=1e-4, **ADAM, update=10, clip=clip, copy=copy)


def _torch_adamw(main: Tensor, m: Tensor, v: Tensor, gradient: Tensor, copy: Tensor, clip: Tensor) -> None:
    """torch's fused update, with a multiplication before it and the copy after it."""
    gradient = gradient * clip
    step = torch.full((), 9.0, device=main.device)
    decay, eps, (beta1, beta2) = ADAM["weight_decay"], ADAM["eps"], ADAM["betas"]
    torch.ops.aten._fused_adamw_(
        *([main], [gradient], [m], [v], [], [step]),
        lr=1e-4, beta1=beta1, beta2=beta2, weight_decay=decay, eps=eps, amsgrad=False, maximize=False,
    )  # fmt: skip
    copy.copy_(main)


def _adamw_inputs(device: str) -> list[Tensor]:
    shard = [torch.rand(SHARD, device=device) for _ in range(4)]
    return [*shard, torch.empty(SHARD, dtype=BF16, device=device), torch.ones(1, device=device)]


def _attention_inputs(
    device: str, heads: int = HEADS, groups: int = GROUPS, head_size: int = HEAD_SIZE, documents: int = 0
) -> list[Tensor]:
    starts = [torch.arange(0, S * B + 1, S // documents, dtype=torch.int32, device=device)] if documents else []
    return [*(_leaf(device, S, B, n, head_size) for n in (heads, groups, groups)), *starts]


def _attention(query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None = None) -> Tensor:
    return flash_attention(query, key, value, document_starts=starts)


def _windowed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return flash_attention(query, key, value, window=1024, soft_cap=50.0)


def _torch_attention(query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None = None) -> Tensor:
    return causal_attention(query, key, value, "sdpa", document_starts=starts).view(query.shape)


def _torch_windowed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return causal_attention(query, key, value, "sdpa", window=1024, soft_cap=50.0).view(query.shape)


ATTENTION = (
    Case("attention, d 128", _attention, _torch_attention, _attention_inputs, S * B * H, None),
    Case(
        "attention, documents",
        *(_attention, _torch_attention, partial(_attention_inputs, documents=8), S * B * H, None),
    ),
    *(
        Case(
            *(f"attention, d {d}, window and cap", _windowed, _torch_windowed),
            *(partial(_attention_inputs, heads=H // d // 4 * 4, groups=H // d // 4, head_size=d), S * B * H, None),
        )
        for d in (64, 80, 256)
    ),
)
CASES = (
    Case("RMSNorm", _norm, _torch_norm, lambda d: [_leaf(d, S, B, H), _leaf(d, H)], S * B * H, (4, 6)),
    Case(
        *("add + RMSNorm", _add_norm, _torch_add_norm),
        *(lambda d: [_leaf(d, S, B, H), _leaf(d, S, B, H), _leaf(d, H)], S * B * H, (8, 8)),
    ),
    Case("SwiGLU", swiglu, _torch_swiglu, lambda d: [_leaf(d, S, B, 2 * FF)], S * B * FF, (6, 10)),
    Case("GeGLU", geglu, _torch_geglu, lambda d: [_leaf(d, S, B, 2 * FF)], S * B * FF, (6, 10)),
    Case("squared ReLU", squared_relu, _torch_squared_relu, lambda d: [_leaf(d, S, B, FF)], S * B * FF, (4, 6)),
    Case(
        *("cross entropy", _cross_entropy, _torch_cross_entropy),
        *(lambda d: [_leaf(d, S, B, V), _labels(d)], S * B * V, (2, 4)),
    ),
    Case(
        *("rotary on fused q, k, v", _rotary, _torch_rotary, _rotary_inputs),
        *(S * B * (HEADS + 2 * GROUPS) * HEAD_SIZE, (4, 4)),
    ),
    Case("AdamW", _adamw, _torch_adamw, _adamw_inputs, SHARD, (30, 0)),
    *ATTENTION,
)


def launches(case: Case, device: str = "meta", amd: bool = False) -> tuple[list[Launch], list[Launch]]:
    """What the forward starts, and what the backward starts: nothing, for an operation without one.

    Args: amd, whether as torch's build for AMD would.
    """
    with mock.patch.object(attention, "ON_AMD", amd):
        with recorded() as forward:
            outputs = case.operation(*case.inputs(device))
        with recorded() as backward:
            differentiate(outputs)
    return forward, backward


def differentiate(outputs: Outputs) -> None:
    """Run the backward of an operation, if it has one."""
    if outputs is not None:
        several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        torch.autograd.backward(several, [torch.ones_like(output) for output in several])

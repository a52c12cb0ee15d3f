"""The operations of a decoder that have several implementations, each chosen once, when the model is built.

Shapes: s sequence, b micro batch, h hidden, n query heads, g query groups, r = n / g, d head size, f feed-forward size, v padded
vocabulary; /t split by tensor parallelism.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fanal.errors import UserError
from fanal.kernels import activations, compiled, cross_entropy, rms_norm, rotary
from fanal.kernels.choice import Choice, choose, device_kind
from fanal.kernels.operation_trial import failure
from fanal.kernels.triton import activations as triton_activations
from fanal.kernels.triton import cross_entropy as triton_cross_entropy
from fanal.kernels.triton import rms_norm as triton_rms_norm
from fanal.kernels.triton import rotary as triton_rotary
from pretrain.config.derive import kv_channels
from pretrain.config.schema import KernelsConfig, ModelConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Operations:
    """One implementation of each operation, with the signature of torch's."""

    rms_norm: Callable[[Tensor, Tensor, float, bool], Tensor] = rms_norm.rms_norm
    """As kernels.rms_norm."""
    activation: Callable[[Tensor], Tensor] = activations.swiglu
    """What the first projection of the feed-forward goes through: [s, b, 2 f/t] -> [s, b, f/t] with a gate, else of one shape."""
    rotary: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]] = rotary.rotary_qkv
    """As kernels.rotary.rotary_qkv."""
    cross_entropy: Callable[..., tuple[Tensor, Tensor]] = cross_entropy.vocab_parallel_cross_entropy
    """As kernels.cross_entropy.vocab_parallel_cross_entropy."""


def plain_operations(model: ModelConfig) -> Operations:
    """Return torch's implementation of each operation, which runs anywhere."""
    return Operations(activation=_TORCH[_activation(model)])


def choose_operations(
    model: ModelConfig, requested: KernelsConfig, *, compile: bool, device: torch.device, dtype: torch.dtype
) -> Operations:
    """Choose the implementation of each operation, and log it with the reason.

    On a GPU an implementation of ours has a trial first (operation_trial): auto goes on with torch's where it fails.

    Args: compile: have torch compile those that are torch's and hold no collective (train.compile).
    Raises: UserError if one is requested that cannot run here.
    """
    if compile:
        compiled.check_compiler(device.type)
    sizes = {"rms_norm": model.hidden_size, "rotary": kv_channels(model)}
    taken: dict[str, Any] = {}
    for operation in (field.name for field in fields(Operations)):
        name = _activation(model) if operation == "activation" else operation
        asked = getattr(requested, operation)
        choice = choose(asked, name, device_kind(device), dtype, sizes.get(operation, 0))
        # Not on the device of a rehearsal, which has no values.
        is_tried = choice.backend == "triton" and device.type == "cuda"
        fault = failure(name, _TRITON[name], device, dtype) if is_tried else None
        if fault is not None and asked == "triton":
            raise UserError(
                f"kernels.{operation} (triton) cannot be used: {fault}; kernels.{operation}=torch works here"
            )
        choice = choice if fault is None else Choice("torch", fault)
        if choice.backend == "torch" and compile and name in compiled.OPERATIONS:
            choice = Choice("compiled", f"train.compile; {choice.reason}")
        logger.info("kernels.%s: %s (%s)", operation, choice.backend, choice.reason)
        taken[operation] = _implementation(name, choice.backend)
    return Operations(**taken)


def _activation(model: ModelConfig) -> str:
    """Return the name of the activation as an operation. xielu learns: it is a module of its layer, and this one stands in."""
    return "swiglu" if model.activation == "xielu" else model.activation


def _implementation(name: str, backend: str) -> Callable[..., Any]:
    if backend == "compiled":
        return compiled.OPERATIONS[name]()
    return (_TRITON if backend == "triton" else _TORCH)[name]


def _triton_rotary(mixed: Tensor, table: Tensor, heads_per_group: int) -> tuple[Tensor, Tensor, Tensor]:
    return triton_rotary.rotary_qkv(mixed, table[0], table[1], mixed.shape[-1] // (heads_per_group + 2))


def _triton_cross_entropy(
    logits: Tensor, labels: Tensor, group: Any, *, columns: int | None = None, soft_cap: float | None = None
) -> tuple[Tensor, Tensor]:
    first = 0 if group is None else group.rank() * logits.shape[-1]
    real = None if columns is None else first + columns  # as a number of the whole vocabulary
    return triton_cross_entropy.vocab_parallel_cross_entropy(logits, labels, group, real, soft_cap)


_TORCH: dict[str, Callable[..., Any]] = {
    "rms_norm": rms_norm.rms_norm,
    "swiglu": activations.swiglu,
    "geglu": activations.geglu,
    "squared_relu": activations.squared_relu,
    "rotary": rotary.rotary_qkv,
    "cross_entropy": cross_entropy.vocab_parallel_cross_entropy,
}
_TRITON: dict[str, Callable[..., Any]] = {
    "rms_norm": triton_rms_norm.rms_norm,
    "swiglu": triton_activations.swiglu,
    "geglu": triton_activations.geglu,
    "squared_relu": triton_activations.squared_relu,
    "rotary": _triton_rotary,
    "cross_entropy": _triton_cross_entropy,
}

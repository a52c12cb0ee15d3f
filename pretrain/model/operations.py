"""The operations of a decoder that have several implementations, each chosen once, when the model is built.

Shapes: s sequence, b micro batch, h hidden, n query heads, g query groups, r = n / g, d head size, f feed-forward size, v padded
vocabulary; /t split by tensor parallelism.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fanal.kernels import activations, compiled, rms_norm, rotary
from fanal.kernels.choice import Choice
from fanal.kernels.cross_entropy import TORCH, Passes
from fanal.kernels.operation_trial import choose_with_trial
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
    cross_entropy: Passes = TORCH
    """As kernels.cross_entropy.vocab_parallel_cross_entropy; its passes go over the logits of a chunk as well."""


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
        size = sizes.get(operation, 0)
        choice = choose_with_trial(operation, asked, name, device, dtype, size, triton=_TRITON[name])
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
    return _TRITON[name]() if backend == "triton" else _TORCH[name]


def _triton_rms_norm() -> Callable[..., Any]:
    from fanal.kernels.triton.rms_norm import rms_norm

    return rms_norm


def _triton_activation(name: str) -> Callable[..., Any]:
    from fanal.kernels.triton import activations

    return getattr(activations, name)


def _triton_rotary() -> Callable[..., Any]:
    from fanal.kernels.triton.rotary import rotary_qkv

    def call(mixed: Tensor, table: Tensor, heads_per_group: int) -> tuple[Tensor, Tensor, Tensor]:
        return rotary_qkv(mixed, table[0], table[1], mixed.shape[-1] // (heads_per_group + 2))

    return call


def _triton_cross_entropy() -> Callable[..., Any]:
    from fanal.kernels.triton.cross_entropy import TRITON

    return TRITON


_TORCH: dict[str, Callable[..., Any]] = {
    "rms_norm": rms_norm.rms_norm,
    "swiglu": activations.swiglu,
    "geglu": activations.geglu,
    "squared_relu": activations.squared_relu,
    "rotary": rotary.rotary_qkv,
    "cross_entropy": TORCH,
}
_TRITON: dict[str, Callable[[], Callable[..., Any]]] = {
    "rms_norm": _triton_rms_norm,
    "swiglu": partial(_triton_activation, "swiglu"),
    "geglu": partial(_triton_activation, "geglu"),
    "squared_relu": partial(_triton_activation, "squared_relu"),
    "rotary": _triton_rotary,
    "cross_entropy": _triton_cross_entropy,
}
"""What imports an implementation of ours and returns it: a start on a CPU reads none of their files."""

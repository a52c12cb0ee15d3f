"""One trial of an operation's implementation on the device where it is to run, before anything is trained on it.

A kernel that is installed may still not compile for a GPU, or may be wrong on it. Both show here, against the definition, in the
seconds before the first step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fanal.kernels import reference

ROWS, WIDTH, PADDING, BATCH, GROUPS, HEADS = 96, 352, 101, 2, 2, 3
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest difference from the definition as a share of its norm, of outputs and gradients: rounding stays four times below."""

Call = Callable[..., Any]


def failure(name: str, implementation: Call, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return how a trial of an implementation fails on a device; None if it does not.

    Forward and backward, a few MB, no collective.
    Args: name: a key of DEFINITIONS; implementation: with the signature of torch's (pretrain/model/operations.py).
    """
    try:
        found = _results(implementation, *_inputs(name, device, dtype))
        wanted = _results(DEFINITIONS[name], *_inputs(name, device, dtype, wide=True))
    except Exception as error:  # of whatever kind: a compiler's, a driver's; none of them must end the run
        return f"its trial on this device ended with {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    for number, (result, expected) in enumerate(zip(found, wanted, strict=True)):
        difference = float((result.detach().float() - expected).norm() / expected.norm())
        if not difference <= BOUNDS[dtype]:  # NaN too
            return f"its trial on this device is off the definition by {difference:.2g} of the norm (result {number})"
    return None


def _inputs(
    name: str, device: torch.device, dtype: torch.dtype, *, wide: bool = False
) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Return the tensors that get a gradient, and what else an operation takes; the same values in fp32 if wide."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator).to(device, dtype)
        return (drawn.float() if wide else drawn).requires_grad_()

    if name == "rms_norm":
        return [draw(ROWS, BATCH, WIDTH), draw(WIDTH)], (1e-5, False)
    if name == "rotary":
        angles = reference.rotary_angles(ROWS, reference.rotary_frequencies(48, 10_000.0)).to(device)
        return [draw(ROWS, BATCH, GROUPS, (HEADS + 2) * 64)], (torch.stack((angles.cos(), angles.sin())), HEADS)
    if name == "cross_entropy":
        labels = torch.randint(0, WIDTH - PADDING, (ROWS, BATCH), generator=generator).to(device)
        # Not a leaf: its memory is taken for its gradient.
        return [draw(ROWS, BATCH, WIDTH)], (labels,)
    return [draw(ROWS, BATCH, WIDTH)], ()


def _results(call: Call, leaves: list[Tensor], others: tuple[Any, ...]) -> list[Tensor]:
    """Return the outputs and the gradients of what gets one."""
    with torch.enable_grad():
        if len(others) == 1:  # cross entropy: a group of one rank, columns without a token, a cap
            outputs = call(leaves[0] + 0, *others, None, columns=WIDTH - PADDING, soft_cap=3.0)
        else:
            outputs = call(*leaves, *others)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(1)
        upstream = [torch.randn(out.shape, generator=generator).to(out.device, out.dtype) for out in outputs]
        return [*(out.detach() for out in outputs), *torch.autograd.grad(outputs, leaves, upstream)]


def _cross_entropy(
    logits: Tensor, labels: Tensor, group: None, *, columns: int, soft_cap: float
) -> tuple[Tensor, Tensor]:
    real = reference.soft_cap(logits[..., :columns], soft_cap)
    return reference.cross_entropy(real, labels), real.logsumexp(dim=-1)


DEFINITIONS: dict[str, Call] = {
    "rms_norm": reference.rms_norm,
    "swiglu": lambda both: reference.swiglu(*both.chunk(2, dim=-1)),
    "geglu": lambda both: reference.geglu(*both.chunk(2, dim=-1)),
    "squared_relu": reference.squared_relu,
    "rotary": reference.rotary_qkv,
    "cross_entropy": _cross_entropy,
}

"""One trial of an operation's implementation on the device where it is to run, before anything is trained on it.

A kernel that is installed may still not compile for a GPU, or may be wrong on it. Both show here, against the definition, in the
seconds before the first step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fanal.errors import UserError
from fanal.kernels import reference
from fanal.kernels.choice import Choice, choose, device_kind

ROWS, WIDTH, PADDING, BATCH, GROUPS, HEADS = 96, 352, 101, 2, 2, 3
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest difference from the definition as a share of its norm, of outputs and gradients: rounding stays four times below."""

Call = Callable[..., Any]


def choose_with_trial(
    key: str,
    requested: str,
    operation: str,
    device: torch.device,
    dtype: torch.dtype,
    size: int = 0,
    *,
    triton: Callable[[], Call],
) -> Choice:
    """Settle the implementation of one operation as ``choose`` does; on a GPU our kernel has a trial first.

    auto goes on with torch's where the trial fails.
    Args: key: what a person calls it, as in kernels.KEY; triton: what imports and returns our implementation; the others as of
        ``choose``.
    Raises: UserError if Triton is requested and cannot run here.
    """
    choice = choose(requested, operation, device_kind(device), dtype, size, key=key)
    # Not on the device of a rehearsal, which has no values.
    is_tried = choice.backend == "triton" and device.type == "cuda"
    fault = failure(operation, triton(), device, dtype) if is_tried else None
    if fault is None:
        return choice
    if requested == "triton":
        raise UserError(f"kernels.{key} (triton) cannot be used: {fault}; kernels.{key}=torch works here")
    return Choice("torch", fault)


def failure(name: str, implementation: Call, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return how a trial of an implementation fails on a device; None if it does not.

    Forward and backward, a few MB, no collective.
    Args: name: a key of DEFINITIONS; implementation: with the signature of torch's (pretrain/model/operations.py).
    """
    try:
        found = _results(name, implementation, *_inputs(name, device, dtype))
        wanted = _results(name, DEFINITIONS[name], *_inputs(name, device, dtype, wide=True))
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
    if name == "adamw":
        numbers = torch.randn(4, ROWS * WIDTH - 5, generator=generator).to(device)
        main, exp_avg, exp_avg_sq, gradient = (one.clone() for one in numbers)
        copy = torch.zeros_like(main, dtype=torch.float32 if wide else dtype)
        return [], (main, exp_avg, exp_avg_sq.square_(), gradient, copy)
    return [draw(ROWS, BATCH, WIDTH)], ()


def _results(name: str, call: Call, leaves: list[Tensor], others: tuple[Any, ...]) -> list[Tensor]:
    """Return the outputs, and the gradients of what gets one."""
    if name == "adamw":
        return _updated(call, *others)
    with torch.enable_grad():
        if name == "cross_entropy":  # a group of one rank, columns without a token, a cap
            outputs = call(leaves[0] + 0, *others, None, columns=WIDTH - PADDING, soft_cap=3.0)
        else:
            outputs = call(*leaves, *others)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(1)
        upstream = [torch.randn(out.shape, generator=generator).to(out.device, out.dtype) for out in outputs]
        return [*(out.detach() for out in outputs), *torch.autograd.grad(outputs, leaves, upstream)]


def _updated(
    call: Call, main: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor
) -> list[Tensor]:
    """Return by how much the fifth update changes the weights, the moments after it, and the copy."""
    before, clip = main.clone(), torch.full((), 0.5, device=main.device)
    numbers = {"learning_rate": 0.1, "betas": (0.9, 0.95), "eps": 0.1, "weight_decay": 0.3, "update": 5}
    call(main, exp_avg, exp_avg_sq, gradient, **numbers, clip=clip, copy=copy)
    return [main - before, exp_avg, exp_avg_sq, copy]


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
    "adamw": reference.adamw,
}

"""Bounds on the difference between two layouts of one run, which round sums in another order; for tests and ``fanal prove``.

In one and the same layout nothing may differ, so there is no bound for it.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Relative differences that rounding explains."""

    loss: float
    """Bound for every step's loss, each domain's, and each validation loss."""
    grad_norm: float
    """Bound for the gradient norm of every step, or of the median one (``median_grad_norm``)."""
    median_grad_norm: bool
    optimizer: float
    """Bound for each whole tensor of the checkpoint (master weights, both moments): norm of the difference / norm of the tensor."""


FP32 = Bounds(loss=2e-6, grad_norm=2e-5, median_grad_norm=False, optimizer=2e-5)
"""Ten steps of summing in another order stay well inside; half of all heads dead moves the first loss by 1e-4. Of the
optimizer, eight steps of the tests' run under TP2 x PP2, DP2 and on one rank differ by 1e-6; moments that were forgotten
differ by more than 0.1."""

BF16 = Bounds(loss=1e-3, grad_norm=5e-3, median_grad_norm=True, optimizer=5e-2)
"""bf16 keeps 8 bits: one rounding is 2^-9 = 0.2 %, and sums under TP round in another order than whole ones. A loss averages
512 tokens, whose errors are independent, so 0.2 % / sqrt(512) = 1e-4 per step is expected; ten steps of diverging weights
are allowed ten times that. A gradient norm is not an average over tokens, and where one direction outweighs all others
(a text of one repeated token) it hangs on the last bit of the weights: on one rank, bf16 and fp32 differ by up to 27 % in
five of thirty steps and by 0.1 % in the others. So the median step is held to 0.5 %, not every step to more. Of the
optimizer, the same eight steps differ by 1e-2."""


def bounds_of(precision: Literal["fp32", "bf16"]) -> Bounds:
    """The bounds for ``train.precision``."""
    return FP32 if precision == "fp32" else BF16

"""Keys of ``kernels``: the implementation of each operation."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class KernelsConfig:
    """Implementation of each operation: our Triton kernel, or torch's operations. auto takes Triton on a GPU where it is installed
    and passes a trial there."""

    rms_norm: Literal["auto", "triton", "torch"] = "auto"
    """RMSNorm of the residual stream and of heads."""
    activation: Literal["auto", "triton", "torch"] = "auto"
    """Activation of the feed-forward, with its gate; xielu is always torch's."""
    rotary: Literal["auto", "triton", "torch"] = "auto"
    """Split into queries, keys and values with their rotary positions; with QK-norm between the two it is always torch's."""
    cross_entropy: Literal["auto", "triton", "torch"] = "auto"
    """Cross entropy over the vocabulary."""
    adamw: Literal["auto", "triton", "torch"] = "auto"
    """Update of AdamW: by Triton in one pass with gradient clipping and the copy into bf16 parameters."""

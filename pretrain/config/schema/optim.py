"""Keys of ``optim``: the optimizer and its learning-rate schedule."""

from dataclasses import dataclass
from typing import Literal

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule."""

    name: Literal["adamw"] = "adamw"
    """Which optimizer: a file of pretrain/optim. A run keeps it to its end."""

    lr: float = MISSING
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["constant", "linear", "cosine", "WSD"] = "cosine"
    """Shape after the warm-up."""
    lr_warmup_samples: int = 0
    """Samples over which the rate rises linearly from 0."""
    lr_decay_samples: int | None = None
    """Samples, warm-up included, until min_lr; null means the whole run."""
    lr_wsd_decay_samples: int | None = None
    """Samples of the final decay, counted back from lr_decay_samples; of a constant rate, of a decay that begins on request."""
    lr_wsd_decay_style: Literal["linear", "cosine", "minus_sqrt", "exponential"] = "linear"
    """Shape of that final decay; minus_sqrt is 1 - sqrt."""
    lr_wsd_decay_start_sample: int | None = None
    """First sample of the final decay of a WSD or constant rate, with which the run ends; null counts it back, or begins it on
    request."""
    weight_decay: float = 0.1
    """Decoupled weight decay; not applied to norms and biases."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

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
    """WSD only: samples of the final decay, counted back from lr_decay_samples."""
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
    ema_decay: float | None = None
    """Decay, for each update, of an exponential moving average of the weights that is kept beside them; null keeps none. 0.999 is
    an average over about the last thousand updates. It changes nothing in the training, and may be set, changed or dropped at a
    resume."""

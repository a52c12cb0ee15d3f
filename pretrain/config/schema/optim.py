"""Keys of ``optim``: the optimizer and its learning-rate schedule."""

from dataclasses import dataclass
from typing import Literal

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule."""

    name: Literal["adamw", "muon"] = "adamw"
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
    muon_momentum: float = 0.95
    """muon only: decay of the momentum of the layers' matrices; the adam keys are for all other parameters."""
    muon_nesterov: bool = True
    """muon only: whether the gradient is added to the momentum once more before it is orthogonalized."""
    muon_num_ns_steps: int = 5
    """muon only: iterations of Newton-Schulz that orthogonalize a matrix."""
    muon_scale: Literal["rms", "spectral"] = "rms"
    """muon only: length of an update: rms gives it AdamW's (0.2 a parameter), so that AdamW's lr and weight decay serve;
    spectral the largest singular value sqrt(max(1, rows / columns))."""
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

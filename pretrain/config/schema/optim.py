"""Keys of ``optim``: the optimizer and its learning-rate schedule."""

from dataclasses import dataclass
from typing import Literal

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule."""

    name: Literal["adamw", "ademamix", "lion", "stable_adamw", "muon"] = "adamw"
    """Which optimizer: a file of pretrain/optim. A run keeps it to its end; checkpoint.init_from may begin with another."""

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
    """Decoupled weight decay of matrices; what else it acts on, the next keys say."""
    weight_decay_on_embeddings: bool = True
    """Whether the embedding matrix decays; a tied one is the output layer as well. An untied output layer decays in any case."""
    weight_decay_on_vectors: bool = False
    """Whether parameters of one dimension decay: norms, biases, learned slopes of an activation."""
    adamc_weight_decay: bool = False
    """Whether the weight decay is multiplied by the learning rate over lr, for every optimizer (AdamC: Defazio, 2025)."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    ademamix_beta3: float = 0.9999
    """AdEMAMix only: decay of the slow average of gradients, at the end of its warm-up."""
    ademamix_alpha: float = 8.0
    """AdEMAMix only: weight of the slow average beside the first moment, at the end of its warm-up."""
    ademamix_beta3_warmup_steps: int | None = None
    """AdEMAMix only: updates over which its half-life grows from that of adam_beta1; the paper's are all of a run, 0 is none."""
    ademamix_alpha_warmup_steps: int | None = None
    """AdEMAMix only: updates over which alpha rises linearly from 0; the paper's are all of a run, 0 is none."""
    lion_beta1: float = 0.9
    """Lion only: weight of the average of gradients in the direction of an update."""
    lion_beta2: float = 0.99
    """Lion only: decay of the average of gradients."""
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
    ema_decay: float | None = None
    """Decay, for each update, of an exponential moving average of the weights that is kept beside them; null keeps none. 0.999 is
    an average over about the last thousand updates. It changes nothing in the training, and may be set, changed or dropped at a
    resume."""

"""Keys of ``train``: length, batch and precision, and when a run ends."""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class BatchRampConfig:
    """Batch size that grows at the start: from ``start`` by ``increment`` in equal parts of ``samples``."""

    start: int = MISSING
    """First global batch size, in samples."""
    increment: int = MISSING
    """Growth at each stage, in samples."""
    samples: int = MISSING
    """Samples after which the full global_batch_size is reached."""


@dataclass(frozen=True, kw_only=True)
class BatchStageConfig:
    """Another global batch size from some sample on."""

    start_sample: int = MISSING
    """First sample of the run that is trained on with this batch; a step that it falls into is finished first."""
    global_batch_size: int = MISSING
    """Samples per optimizer step over all ranks, from there on."""


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """Limits of the watchdog: a rank that takes longer writes its stacks and exits with code 77; null or 0 means no limit."""

    init_s: float | None = 1800.0
    """Seconds from the start of a rank to its first step, loading the checkpoint included."""
    step_s: float | None = 600.0
    """Seconds for one step with its record; the first step, which compiles and connects, may take init_s more."""
    validation_s: float | None = 1800.0
    """Seconds for one validation."""
    save_s: float | None = 3000.0
    """Seconds that training may stand still for one checkpoint; checkpoint.phase_timeout_s limits what is done beside it."""


@dataclass(frozen=True, kw_only=True)
class SpikeConfig:
    """Steps whose loss or gradient norm stands out of the last ones: they are listed in spikes.jsonl, and skipped if asked."""

    window_steps: int = 128
    """Last steps that a step's loss and gradient norm are compared with."""
    min_steps: int = 64
    """Steps that must be in the window before anything counts as a spike."""
    z_score: float = 6.0
    """A spike is more than this many standard deviations above the window's mean, in the loss or in the gradient norm."""
    skip: bool = False
    """True skips the update of a spike; its samples count as consumed."""
    max_skipped_spikes: int = 100
    """Spikes skipped in the whole run, at most; those after them are trained on, with a warning."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch and precision of the training, and when validation runs."""

    train_steps: int = MISSING
    """Optimizer steps in the whole run, counted across restarts."""
    global_batch_size: int = MISSING
    """Samples per optimizer step over all ranks, up to the first of batch_stages."""
    micro_batch_size: int = MISSING
    """Samples per rank per forward pass."""
    batch_ramp: BatchRampConfig | None = None
    """Smaller global batches at the start; null means none."""
    batch_stages: list[BatchStageConfig] = field(default_factory=list)
    """Other global batches that take over later, by rising start_sample."""
    z_loss_weight: float = 0.0
    """Weight of the z-loss, the square of the logarithm of the softmax's denominator, beside the cross entropy; 1e-5 is OLMo's."""
    loss_chunk_tokens: int | None = None
    """Tokens whose logits lie in memory at a time; 0 means all of a micro batch. null means all up to 16,384 tokens of a micro
    batch on a context-parallel rank, else 4,096. A chunk costs the output layer a fourth product beside its three, and saves
    2 bytes a logit in bf16, 4 in fp32."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 keeps fp32 master weights and reduces gradients in fp32. GPUs without bf16 take fp32: fp16, which needs loss scaling, is
    not implemented."""
    compile: bool = False
    """True has torch compile norms, activations and rotary positions that kernels leaves to torch; on a CPU that needs g++."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass: of parts of a layer (selective) or of whole layers (full)."""
    recompute_num_layers: int | None = None
    """With recompute=full: layers that are recomputed, the first of each model chunk, at most as many as it has; null means all."""
    offload_activations: bool = False
    """With recompute=full: True keeps the inputs of recomputed layers in the host's pinned memory between forward and backward,
    copied beside the layers. Exact. Not yet run on a GPU."""
    recompute_modules: list[str] = field(default_factory=lambda: ["core_attn"])
    """With recompute=selective: what is recomputed of each layer. core_attn: scores and their softmax; layernorm: the norms before
    attention and feed-forward, and those over all heads; activation: of the feed-forward; mlp: the whole feed-forward."""
    deterministic: bool = False
    """True computes the same bits each time on a GPU too, at a cost that was not measured; a CPU does in any case."""
    seed: int = 42
    """Seed of the initial weights."""
    validation_interval: int | None = None
    """Steps between validation losses; null means never. The last step always has one if there is validation data."""
    validation_samples: int = 64
    """Validation samples per validation source and validation, at most."""
    validate_ema: bool = False
    """True validates the moving average of the weights (optim.ema_decay) as well, each time: a second pass over the same samples,
    and the weights put in place and back."""
    max_skipped_steps: int = 10
    """Steps in a row with a non-finite gradient that are skipped before the run stops."""
    walltime_s: float | None = None
    """Seconds after its start at which this process must be gone, its last checkpoint written; null means no limit. A run
    that comes near stops with code 75. At least one step is trained whatever the time, so that a chain of jobs gets on."""
    walltime_margin_s: float = 120.0
    """Seconds of walltime_s that are kept for the last checkpoint and for leaving."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    spikes: SpikeConfig | None = field(default_factory=SpikeConfig)
    """Detection of spikes and what happens then; null looks for none."""

"""The whole configuration of a run, one frozen dataclass per room.

What must be chosen has no default. What follows from the fields lives in ``derive.py``, rules that hold between them in
``rules.py``, reading YAML and overrides in ``load.py``. Names are Megatron's.
"""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and initial values of a decoder. The fields that it states make it one of the families of pretrain/model/families."""

    num_layers: int = MISSING
    """Transformer layers."""
    hidden_size: int = MISSING
    """Width of the residual stream."""
    ffn_hidden_size: int = MISSING
    """Width of the feed-forward; with a gate, of the gate and of what it multiplies."""
    activation: Literal["swiglu", "geglu", "squared_relu", "xielu"] = "swiglu"
    """Activation of the feed-forward; swiglu and geglu have a gate, squared_relu and xielu have none."""
    num_attention_heads: int = MISSING
    """Query heads."""
    num_query_groups: int = MISSING
    """Key/value heads; each serves num_attention_heads / num_query_groups query heads."""
    kv_channels: int | None = None
    """Size of one head; null means hidden_size / num_attention_heads."""
    vocab_size: int = MISSING
    """Rows of the embedding: at least the tokenizer's vocabulary. Rows above it take no part in the loss, nor in an export."""
    make_vocab_size_divisible_by: int = 128
    """The embedding is padded to a multiple of this, whatever the layout; padded columns never take part in the loss."""
    share_embeddings_and_output_weights: bool = False
    """True ties the output projection to the embedding."""
    embedding_scale: Literal["none", "sqrt_hidden_size"] = "none"
    """Number that what the embedding gives is multiplied by: 1, or the square root of hidden_size as in Gemma."""
    rotary_base: float = 10_000.0
    """Theta of the rotary position embedding."""
    local_rotary_base: float | None = None
    """Theta in layers with a sliding window, where other layers have none (as in Gemma 3); null means rotary_base."""
    rotary_percent: float = 1.0
    """Share of each head's channels that turn with the position, the first ones; the others know no position."""
    rotary_scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    """Change of the rotary frequencies for long sequences: all of them, or the slow ones as Llama 3.1 or YaRN do, divided by a
    factor. Where only some layers have a sliding window, those layers keep their frequencies."""
    rotary_scaling_factor: float = 1.0
    """Number that frequencies are divided by."""
    rotary_scaling_original_length: int | None = None
    """Tokens in the sequences of the training before the change, for llama3 and yarn: what is slow is judged by it."""
    rotary_scaling_low_freq_factor: float = 1.0
    """Turns within the original length below which a frequency is divided by the whole factor, for llama3."""
    rotary_scaling_high_freq_factor: float = 4.0
    """Turns within the original length above which a frequency stays as it is, for llama3."""
    rotary_scaling_beta_fast: float = 32.0
    """Turns within the original length above which a frequency stays as it is, for yarn."""
    rotary_scaling_beta_slow: float = 1.0
    """Turns within the original length below which a frequency is divided by the whole factor, for yarn."""
    rotary_scaling_attention_factor: float | None = None
    """Number that turned queries and keys are multiplied by, for yarn; null means 0.1 * ln(factor) + 1."""
    no_rope_layer_interval: int | None = None
    """Layers N, 2N, ... have no rotary positions (NoPE, as every 4th of SmolLM3); null means that all layers have them."""
    sliding_window: int | None = None
    """Positions that a position sees, itself included; null means all before it."""
    full_attention_layer_interval: int | None = None
    """Layers N, 2N, ... have no sliding window (every 4th of OLMo 3); null means that all layers have it."""
    add_qkv_bias: bool = False
    """True adds a bias to queries, keys and values (as Qwen2)."""
    query_pre_attention_scalar: float | None = None
    """Attention scores are divided by the square root of this; null means the size of a head."""
    attention_logit_softcap: float | None = None
    """Scores x become cap * tanh(x / cap) before the softmax (as Gemma 2); null means none."""
    final_logit_softcap: float | None = None
    """Logits x become cap * tanh(x / cap) (as Gemma 2); null means none."""
    qk_layernorm: bool = False
    """True applies RMSNorm to queries and keys, before rotary positions (QK-norm)."""
    qk_layernorm_scope: Literal["head", "full"] = "head"
    """Mean square of QK-norm: of each head (as Qwen3), or of all query heads and of all key heads (as OLMo 2)."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    """Norm of the residual stream. LayerNorm has a bias; QK-norm is RMSNorm with both."""
    layernorm_zero_centered_gamma: bool = False
    """True makes a norm multiply by 1 + weight, with weights that begin at 0."""
    norm_placement: Literal["before", "after", "both"] = "before"
    """Where a layer has norms: before attention and feed-forward, after each (as OLMo 2), or both (four a layer, as Gemma 2)."""
    layernorm_epsilon: float = 1e-5
    """Added to the mean square, or the variance, inside a norm."""
    init_method_std: float = 0.02
    """Standard deviation of initial weights; projections into the residual stream use std / sqrt(2 * num_layers)."""
    attention_backend: Literal[
        "auto", "flash4", "flash3", "flash2", "flash", "varlen", "triton", "sdpa", "reference"
    ] = "auto"
    """Attention kernel: auto takes the first that can run, on CUDA flash-attn 4, 3 or 2 where installed, else PyTorch's own or ours
    (triton); flash takes the newest flash-attn that can. A table of what each can: docs/attention.md."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One token shard and its part in the mixture."""

    prefix: str = MISSING
    """Path of the shard without .bin / .idx / .json."""
    weight: float | None = None
    """Share of the mixture relative to the other sources' weights; only the ratios matter; null without epochs means 1."""
    epochs: float | None = None
    """The share as passes over the source's training tokens: weight = tokens x epochs. All sources of a mixture, or none."""
    domain: str | None = None
    """Name in logs; null means the domain the shard's manifest states."""


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """Another mixture from some sample on; a source that was read before continues where it stood."""

    start_sample: int = MISSING
    """First sample of the run that this mixture gives."""
    train: list[SourceConfig] = field(default_factory=list)
    """Its sources."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Comparison of the shards' bytes with the hashes in their manifests, while the run trains, once per node and start."""

    bytes_per_s: int = 16_777_216
    """Bytes that a node reads for it per second; more only where the run would otherwise come to its second pass over a source
    before all of it was compared."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data that a run reads, and their order."""

    tokenizer: str = MISSING
    """Folder of the tokenizer that made the shards."""
    seq_length: int = MISSING
    """Tokens a sample predicts; a sample reads seq_length + 1 tokens."""
    train: list[SourceConfig] = field(default_factory=list)
    """Sources of the training mixture, from the first sample on."""
    phases: list[PhaseConfig] = field(default_factory=list)
    """Mixtures that take over later, by rising start_sample."""
    validation: list[SourceConfig] = field(default_factory=list)
    """Sources of the validation loss, one figure per domain; weights are not used."""
    validation_fraction: float = 0.0
    """Last part of every training source, cut at a document, that is never trained on and joins the validation sources."""
    seed: int = 42
    """Seed of the order of samples."""
    document_mask: bool = False
    """True keeps documents of a sample apart: attention stays inside a document, positions count from its first token, and
    that token is not predicted. mfu_causal still counts attention over whole samples."""
    prefetch_bytes: int = 268_435_456
    """Memory per rank for batches read ahead by a thread, in bytes; 0 reads each batch when it is needed."""
    verify: VerifyConfig | None = field(default_factory=VerifyConfig)
    """Comparison of the shards' bytes with their hashes while the run trains; a difference ends it with code 76. Null compares
    nothing, and every checkpoint says so."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The layout of the model and the batch over ranks."""

    tensor_model_parallel_size: int = 1
    """Ranks that share each weight matrix."""
    pipeline_model_parallel_size: int = 1
    """Ranks that share the layers."""
    virtual_pipeline_model_parallel_size: int = 1
    """Model chunks per pipeline rank; above 1 the schedule is interleaved 1F1B."""
    data_parallel_size: int | None = None
    """Replicas; null means what the ranks given allow (one, when the local ranks are started for you)."""
    sequence_parallel: bool = False
    """Split norms and residuals along the sequence among tensor-parallel ranks."""
    use_distributed_optimizer: bool = True
    """Split optimizer state and fp32 master weights among data-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated parameters while the next forward pass runs; needs the distributed optimizer and overlap_grad_reduce."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Device of the tensors: CUDA communicates through NCCL, the CPU through gloo; auto takes CUDA where there is a GPU."""
    timeout_s: int = 3600
    """Seconds a collective may take before the run gives up with exit code 70; behind train.watchdog, whose limits are shorter
    and which shows where every rank is."""


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
    """Samples per optimizer step over all ranks."""
    micro_batch_size: int = MISSING
    """Samples per rank per forward pass."""
    batch_ramp: BatchRampConfig | None = None
    """Smaller global batches at the start; null means none."""
    z_loss_weight: float = 0.0
    """Weight of the z-loss, the square of the logarithm of the softmax's denominator, beside the cross entropy; 1e-5 is OLMo's."""
    loss_chunk_tokens: int | None = None
    """Tokens whose logits lie in memory at a time; null means all of a micro batch. A chunk costs the output layer a fourth product
    beside its three, and saves 2 bytes a logit in bf16, 4 in fp32."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 keeps fp32 master weights and reduces gradients in fp32. GPUs without bf16 take fp32: fp16, which needs loss scaling, is
    not implemented."""
    compile: bool = False
    """True has torch compile norms, activations and rotary positions that kernels leaves to torch; on a CPU that needs g++."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations computed again in the backward pass: of attention (selective) or of whole layers (full)."""
    deterministic: bool = False
    """True computes the same bits each time on a GPU too, at a cost that was not measured; a CPU does in any case."""
    seed: int = 42
    """Seed of the initial weights."""
    validation_interval: int | None = None
    """Steps between validation losses; null means never. The last step always has one if there is validation data."""
    validation_samples: int = 64
    """Validation samples per validation source and validation, at most."""
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


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints: when to write them, which to keep, and which one a new run starts from."""

    init_from: str | None = None
    """Begin with the weights of this checkpoint of another run, or of that run's last one: a folder; null means initial weights.
    Steps, samples and the learning rate start anew. Of no effect once the run has a checkpoint of its own."""
    init_optimizer: Literal["keep", "fresh"] = "keep"
    """Optimizer states with init_from: keep takes them (AdamW's moments) and the number of updates along; fresh starts at zero,
    and AdamW's first update moves each weight by the whole learning rate, so a warm-up is advised."""

    interval: int | None = None
    """Steps between checkpoints; null means only at the end or at a requested stop."""
    keep_last: int | None = None
    """Number of newest checkpoints to keep; null means all."""
    keep_every_steps: int | None = None
    """Checkpoints whose step is a multiple of this are kept forever; null means none beyond keep_last."""
    asynchronous: bool = True
    """Train on while a checkpoint is written, from a copy in host memory; false waits until it is whole."""
    phase_timeout_s: float = 600.0
    """Seconds that each phase of a save may take (folder, writing, the other ranks' files, sealing) before it counts as failed."""
    max_failed_saves: int = 3
    """Saves in a row that may fail, the training going on, before the run stops."""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Logs: what is written, and how often."""

    interval: int = 10
    """Steps between records."""
    tensorboard: bool = True
    """Also write TensorBoard events."""
    losses_by: Literal["domain", "language"] = "domain"
    """What losses are recorded by, in training and validation: the domain of a source, or the language in its shard's manifest."""
    max_domains: int = 100
    """Losses of a record, at most. Where there are more domains (or languages), those with the smallest shares of the mixture are
    recorded together, as ``other``."""
    peak_tflops_per_gpu: float | None = None
    """Dense peak in TFLOP/s of the training precision, for MFU; null means look the device up, which knows bf16 alone: in fp32
    there is no MFU without it."""
    profile_from_step: int | None = None
    """First step that is traced by torch's profiler into profile/ of the run folder, once a start; null traces none."""
    profile_steps: int = 2
    """Steps of that trace. They take longer than others."""
    profile_rank: int = 0
    """Rank that is traced, one alone: the first rank of a pipeline stage shows what that stage does."""


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


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configuration of a whole run."""

    run_dir: str = MISSING
    """Folder of logs and checkpoints; starting again with the same folder resumes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

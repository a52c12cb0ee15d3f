"""The records that a run reports, with units in their names, and the arithmetic of throughput."""

from dataclasses import dataclass, field
from typing import Literal

from pretrain.state import Skip


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One logged optimizer step; rates are means since the last record."""

    step: int
    consumed_samples: int
    consumed_tokens: int
    global_batch_size: int
    loss: float
    """Mean cross entropy per token of this step's batch, in nats."""
    loss_by_domain: dict[str, float]
    """Loss by domain; a domain without a token in this batch is left out."""
    z_loss: float | None
    """Mean z-loss per token, not weighted and not part of the loss; None where train.z_loss_weight is 0."""
    learning_rate: float
    grad_norm: float
    skipped_steps: int
    """Steps skipped in the run so far, for any reason."""
    skipped_spikes: int
    """Skipped steps that were spikes."""
    step_time_s: float
    tokens_per_second: float
    tokens_per_second_per_gpu: float
    mfu_full: float | None
    """Model FLOPs utilisation, 0 to 1, with all of the attention matrix counted; None where the peak is unknown."""
    mfu_causal: float | None
    """Model FLOPs utilisation with the causal half of the attention matrix counted."""
    peak_memory_bytes: int
    """Peak memory of the rank that used most: of its tensors on a GPU, of its process on a CPU."""
    eta_s: float
    """Seconds until the last step at this pace."""
    reserved_memory_bytes: int | None = None
    """The most that PyTorch's allocator took from a GPU, on the rank where that was most: tensors and fragments. None on a CPU."""
    used_memory_bytes: int | None = None
    """What was not free on the GPU that was fullest, now: with CUDA's context and NCCL's buffers, which nothing above counts."""
    loss_tokens: int | None = None
    """Tokens of this step's batch whose prediction counts, of global_batch_size * seq_length that are read. Rates and MFU count
    what is read, since all of it is computed. None in a log of an earlier version."""
    data_wait_s: float | None = None
    """Of step_time_s, the seconds that a host waited for its micro batches, on the rank where that was most. A GPU that is behind
    its host may not have waited. None in a log of an earlier version."""


@dataclass(frozen=True, kw_only=True)
class ValidationRecord:
    """Validation losses after a step."""

    step: int
    consumed_tokens: int
    validation_loss: dict[str, float]
    """Mean cross entropy per token by domain, in nats."""
    validation_time_s: float
    ema_validation_loss: dict[str, float] | None = None
    """The same of the moving average of the weights; None without train.validate_ema."""


@dataclass(frozen=True, kw_only=True)
class StartRecord:
    """A start of a run, its first or a resume."""

    step: int
    """Step after which it continues; 0 for a new run."""
    train_steps: int
    """Last step of the run, as this start knows it."""
    headline: str
    """Model, device and layout, for people."""
    device: str
    """Name of the device of rank 0."""
    num_ranks: int
    versions: dict[str, str]
    """Versions of python, torch and megatron-core."""
    passes: dict[str, float]
    """Passes over each training source, by its prefix, when the run has come to its last step; of thousands, the largest."""
    padding: dict[str, float] = field(default_factory=dict)
    """Share of the tokens of each source's packed rows that stand for nothing, by its prefix; of thousands, the largest. Empty
    where documents are concatenated."""
    deterministic: bool = False
    """Whether the same bits come out each time, on a GPU too (train.deterministic)."""
    attention: str = ""
    """Attention backend of rank 0; empty in a log of version 0.1."""
    attention_passed_over: dict[str, str] = field(default_factory=dict)
    """The backends that come before it, each with what kept it from running."""
    optimizer: str = ""
    """Optimizer and its settings in words; empty in a log of version 0.1."""
    optimizer_change: str = ""
    """Which states of another optimizer it started with, and which at zero; empty if they are its own."""


@dataclass(frozen=True, kw_only=True)
class DecayRecord:
    """The beginning of the final decay of the learning rate, of a run whose config does not count it back from its end."""

    step: int
    """Step after which it began."""
    asked_by: str
    """Who asked for it: "DECAY file", or the key of the config."""
    start_sample: int
    end_sample: int
    """Sample at which the rate is min_lr."""
    style: str
    """Shape of the decay (optim.lr_wsd_decay_style)."""
    train_steps: int
    """Last step of the run, as it is now known."""
    last_learning_rate: float
    """Learning rate of that step."""
    steps_to_its_end: int
    """Step with which the decay is over; above train_steps where the run ends before."""


@dataclass(frozen=True, kw_only=True)
class EndRecord:
    """An orderly end of a run; one that crashed leaves none."""

    step: int
    outcome: Literal["finished", "stopped"]
    asked_by: str
    """Who asked it to stop, such as "STOP file" or "SIGUSR1 on all ranks"; empty if it finished."""
    checkpoint: str | None
    """The last checkpoint; None if no step was done."""
    save_wait_s: float = 0.0
    """Seconds that the end waited for it, with the pause that its own record has where its save began here. 0 in a log of an
    earlier version."""


@dataclass(frozen=True, kw_only=True)
class BadStepRecord:
    """A step whose loss or gradient norm was a spike, or whose gradient was not finite."""

    step: int
    reason: Skip
    skipped: bool
    """False if the update was made all the same."""
    loss: float
    """Mean cross entropy per token of the batch, in nats, as in StepRecord."""
    loss_z: float | None
    """Standard deviations above the mean of the steps before; None where it was not compared."""
    grad_norm: float
    grad_norm_z: float | None
    first_sample: int
    """Number of the step's first sample in the run."""
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Pace over some steps."""

    step_time_s: float
    tokens_per_second: float
    tokens_per_second_per_gpu: float
    eta_s: float


def throughput(*, tokens: int, steps: int, elapsed_s: float, num_ranks: int, tokens_left: int) -> Throughput:
    """Pace of ``steps`` optimizer steps that trained ``tokens`` tokens in ``elapsed_s`` seconds on ``num_ranks`` ranks.

    What is left is counted in tokens: the steps of a batch ramp become larger, and longer.

    Raises: AssertionError if no step or no time has passed.
    """
    assert steps >= 1 and tokens >= 1 and elapsed_s > 0 and num_ranks >= 1, (
        f"throughput needs steps ({steps}), tokens ({tokens}) and num_ranks ({num_ranks}) of at least 1 and elapsed_s "
        f"({elapsed_s}) above 0"
    )
    per_second = tokens / elapsed_s
    return Throughput(
        step_time_s=elapsed_s / steps,
        tokens_per_second=per_second,
        tokens_per_second_per_gpu=per_second / num_ranks,
        eta_s=tokens_left / per_second,
    )

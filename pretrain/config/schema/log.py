"""Keys of ``log``: what is recorded, and how often."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Logs: what is written, and how often."""

    interval: int = 10
    """Steps between records."""
    tensorboard: bool = True
    """Also write TensorBoard events."""
    sinks: list[Literal["wandb", "mlflow"]] = field(default_factory=list)
    """Also write to Weights & Biases or MLflow, in the run folder unless their variables name a server (docs/logs.md)."""
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
    stability_interval: int | None = None
    """Steps between stability reports: norms, activations and logits by layer (docs/stability.md); null writes none. The step of a
    report multiplies queries and keys once more, and holds a copy of this rank's master weights during its update."""

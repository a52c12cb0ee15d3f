"""The whole configuration of a run: one frozen dataclass for each section, in a file of its own.

What must be chosen has no default. What follows from the fields lives in ``derive.py``, rules that hold between them in
``rules.py``, reading YAML and overrides in ``load.py``. Names are Megatron's.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from pretrain.config.schema.checkpoint import CheckpointConfig
from pretrain.config.schema.data import DataConfig, PhaseConfig, SourceConfig, VerifyConfig
from pretrain.config.schema.kernels import KernelsConfig
from pretrain.config.schema.log import LogConfig
from pretrain.config.schema.model import ModelConfig
from pretrain.config.schema.objective import (
    FillInTheMiddleConfig,
    GoldfishConfig,
    MaskedSpanConfig,
    ObjectiveConfig,
    SpanCorruptionConfig,
)
from pretrain.config.schema.optim import OptimConfig
from pretrain.config.schema.parallel import ParallelConfig
from pretrain.config.schema.train import BatchRampConfig, BatchStageConfig, SpikeConfig, TrainConfig, WatchdogConfig

__all__ = [
    "BatchRampConfig",
    "BatchStageConfig",
    "CheckpointConfig",
    "DataConfig",
    "FillInTheMiddleConfig",
    "GoldfishConfig",
    "KernelsConfig",
    "LogConfig",
    "MaskedSpanConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "ParallelConfig",
    "PhaseConfig",
    "RunConfig",
    "SourceConfig",
    "SpanCorruptionConfig",
    "SpikeConfig",
    "TrainConfig",
    "VerifyConfig",
    "WatchdogConfig",
]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configuration of a whole run."""

    run_dir: str = MISSING
    """Folder of logs and checkpoints; starting again with the same folder resumes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

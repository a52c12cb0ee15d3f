"""What a step of one layout takes: memory by pipeline stage, time by its parts, speed and MFU."""

from dataclasses import dataclass, replace
from functools import lru_cache

from pretrain.config.schema import ModelConfig, RunConfig
from pretrain.config.steps import last_batch_size
from pretrain.model.flops import flops_per_token
from pretrain.plan.machine import MachineConfig
from pretrain.plan.memory import Parts, stage_memory
from pretrain.plan.shapes import shapes_of
from pretrain.plan.times import Times, peak_flops, step_times

MARGIN = 0.1
"""Part of a GPU's memory that is left for what is not counted: CUDA context, NCCL's buffers, workspaces, fragmentation."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """One layout of a run on one machine, full batch."""

    run: RunConfig
    num_gpus: int
    stages: tuple[Parts, ...]
    """Bytes at the peak by what they are, for every pipeline stage."""
    times: Times
    tokens: int
    """Of a step."""
    document_tokens: int | None = None
    """Tokens that every document is taken to have where masks keep documents apart; None: as many as a sample."""
    mfu_full: float
    """Share of the peak that goes into the model, 0 to 1, attention counted in full (pretrain/model/flops.py)."""
    mfu_causal: float
    """The same, the causal half of attention counted."""

    @property
    def peak_bytes(self) -> int:
        """Bytes at the peak of the stage that takes most."""
        return max(self.stage_peaks)

    @property
    def stage_peaks(self) -> tuple[int, ...]:
        """Bytes at the peak of every pipeline stage."""
        return tuple(sum(parts.values()) for parts in self.stages)

    @property
    def worst_stage(self) -> int:
        """The pipeline stage that takes most memory."""
        return max(range(len(self.stages)), key=lambda stage: self.stage_peaks[stage])

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.times.step

    @property
    def tokens_per_second_per_gpu(self) -> float:
        """Tokens that a GPU trains on in a second."""
        return self.tokens / self.times.step / self.num_gpus


def estimate_step(
    run: RunConfig, machine: MachineConfig, num_gpus: int, *, document_tokens: int | None = None
) -> StepEstimate:
    """Return what a step of a run takes on so many GPUs of a machine, in the layout that the run states.

    Args: document_tokens: of every document, for a run whose masks keep them apart.
    Raises: UserError if the ranks or the batch do not fit the layout.
    """
    shapes = shapes_of(run, num_gpus, document_tokens=document_tokens)
    times = step_times(run, machine, shapes)
    tokens = last_batch_size(run.train) * run.data.seq_length
    rate = tokens / times.step / num_gpus / peak_flops(run, machine)
    full, causal = (_flops_per_token(run.model, shapes.attended, causal) for causal in (False, True))
    return StepEstimate(
        run=run,
        num_gpus=num_gpus,
        stages=tuple(stage_memory(run, shapes, stage) for stage in range(shapes.pipeline)),
        times=times,
        tokens=tokens,
        document_tokens=document_tokens,
        mfu_full=rate * full,
        mfu_causal=rate * causal,
    )


@lru_cache(maxsize=64)
def _flops_per_token(model: ModelConfig, seq_length: int, causal: bool) -> float:
    return flops_per_token(model, seq_length, causal=causal)


def on_device_of(run: RunConfig, machine: MachineConfig) -> RunConfig:
    """Return a run on the device that a machine has, whatever device the config states."""
    return replace(run, parallel=replace(run.parallel, device=machine.device))


def usable_bytes(machine: MachineConfig) -> int:
    """Return the bytes of a GPU that a peak may have."""
    return int(machine.memory_gib.value * GIB * (1 - MARGIN))

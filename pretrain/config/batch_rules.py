"""Rules of the batch: what every rank can take an equal share of, at the start, in a ramp and in later stages."""

from collections.abc import Iterator

from fanal.errors import UserError
from pretrain.config.derive import next_multiple, num_microbatches
from pretrain.config.number_rules import LARGEST_SAMPLE
from pretrain.config.schema import BatchRampConfig, ParallelConfig, TrainConfig
from pretrain.config.steps import ramp_stages

MOST_STAGES = 10_000
"""Batches of a ramp, or stages, which are gone through one by one."""
LARGEST_BATCH = 2**31 - 1


def check_batch(train: TrainConfig, parallel: ParallelConfig, replicas: int) -> None:
    """Refuse batches that the ranks cannot share evenly.

    Args: replicas: copies of the model. Raises: UserError naming the first broken rule.
    """
    ramp = train.batch_ramp
    if ramp is not None:
        _check_ramp(ramp, train.global_batch_size)
        _check_ramp_sizes(ramp, train, replicas)
    _check_shares(train, parallel, replicas, train.global_batch_size)
    for size in _ramp_sizes(train):
        _check_shares(train, parallel, replicas, size)
    _check_stages(train, parallel, replicas)


def _check_ramp(ramp: BatchRampConfig, full: int) -> None:
    for name in ("start", "increment", "samples"):
        if getattr(ramp, name) <= 0:
            raise UserError(f"train.batch_ramp.{name} ({getattr(ramp, name)}) must be above 0; 1 works")
    if ramp.start >= full or (full - ramp.start) % ramp.increment:
        raise UserError(
            f"train.batch_ramp goes from start ({ramp.start}) to train.global_batch_size ({full}) and must "
            f"reach it in whole increments ({ramp.increment}); train.batch_ramp.increment={max(1, full - ramp.start)} works "
            "where start is below global_batch_size"
        )
    if ramp_stages(ramp, full) > MOST_STAGES:
        raise UserError(
            f"train.batch_ramp grows from {ramp.start} to train.global_batch_size ({full}) by "
            f"{ramp.increment}, in {ramp_stages(ramp, full):,} stages, and must have at most "
            f"{MOST_STAGES:,}; train.batch_ramp.increment={full - ramp.start} works"
        )


def _ramp_sizes(train: TrainConfig) -> Iterator[int]:
    ramp = train.batch_ramp
    if ramp is not None:
        yield from range(ramp.start, train.global_batch_size, ramp.increment)


def _check_ramp_sizes(ramp: BatchRampConfig, train: TrainConfig, replicas: int) -> None:
    """Every stage's batch divides evenly exactly if the first one and the growth do, the full one being whole."""
    full, per_pass = train.global_batch_size, train.micro_batch_size * replicas
    if full % per_pass:
        return  # the full batch has its own message
    works = f"start={per_pass} with increment={full - per_pass}" if full > per_pass else "train.batch_ramp=null"
    for name, value in (("start", ramp.start), ("increment", ramp.increment)):
        if value % per_pass:
            raise UserError(
                f"train.batch_ramp.{name} ({value}) must be a multiple of train.micro_batch_size ({train.micro_batch_size}) * "
                f"data_parallel_size ({replicas}) = {per_pass}, so that the batch of every stage divides evenly; {works} works"
            )


def _check_shares(train: TrainConfig, parallel: ParallelConfig, replicas: int, size: int) -> None:
    microbatches = num_microbatches(
        global_batch_size=size, micro_batch_size=train.micro_batch_size, data_parallel_size=replicas
    )
    pipeline = parallel.pipeline_model_parallel_size
    if parallel.virtual_pipeline_model_parallel_size > 1 and microbatches % pipeline:
        raise UserError(
            f"the interleaved schedule needs a multiple of parallel.pipeline_model_parallel_size ({pipeline}) microbatches per "
            f"step and a global batch of {size} gives {microbatches}; a global batch of "
            f"{next_multiple(microbatches, pipeline) * train.micro_batch_size * replicas} works"
        )


def _check_stages(train: TrainConfig, parallel: ParallelConfig, replicas: int) -> None:
    """Check the stages that follow: where each begins, and its batch."""
    if len(train.batch_stages) > MOST_STAGES:
        raise UserError(
            f"train.batch_stages ({len(train.batch_stages):,} of them) must be at most {MOST_STAGES:,}; train.batch_stages=[] works"
        )
    before, what = 0, "where the first batch starts"
    if train.batch_ramp is not None:
        before, what = train.batch_ramp.samples, "where train.batch_ramp ends"
    for index, stage in enumerate(train.batch_stages):
        name = f"train.batch_stages[{index}]"
        if not before < stage.start_sample <= LARGEST_SAMPLE:
            raise UserError(
                f"{name}.start_sample ({stage.start_sample}) must be above {before}, {what}, and at most {LARGEST_SAMPLE}; "
                f"{before + 1} works"
            )
        before, what = stage.start_sample, "where the batch before it starts"
        per_pass = train.micro_batch_size * replicas
        if parallel.virtual_pipeline_model_parallel_size > 1:
            per_pass *= parallel.pipeline_model_parallel_size
        size = stage.global_batch_size
        if not 0 < size <= LARGEST_BATCH or size % per_pass:
            works = next_multiple(min(max(size, 1), LARGEST_BATCH - per_pass), per_pass)
            raise UserError(
                f"{name}.global_batch_size ({size}) must be above 0, at most {LARGEST_BATCH}, and a multiple of {per_pass}, the "
                f"samples that all ranks take at a time (train.micro_batch_size * data_parallel_size, and with an interleaved "
                f"schedule * pipeline_model_parallel_size); {works} works"
            )

"""From a step to the documents it trains on."""

from dataclasses import dataclass

import numpy as np

from fanal.errors import UserError
from pretrain.config.derive import model_parallel_size, world_size
from pretrain.data.packing.packed_order import PackedOrder
from pretrain.data.read import TrainData
from pretrain.history.history import History
from pretrain.history.segments import Segment
from pretrain.trace.parts import Part, Texts, parts_of, with_columns


@dataclass(frozen=True, kw_only=True)
class SampleTrace:
    """One sample of a step."""

    sample: int
    """Number in the run, from 0."""
    micro_batch: int
    """The micro batch of its replica that holds it, from 0."""
    replica: int | None
    """The data-parallel rank that reads it; None where no file tells how many there were."""
    source: str
    """Prefix of the shard."""
    domain: str
    pass_number: int
    """How often its source has come round, from 1: the epoch."""
    row: int | None
    """Number of the row in the plan of its source; None unless rows are packed."""
    parts: tuple[Part, ...]
    """The documents in it, in order; what they leave of a packed row stands for nothing."""


@dataclass(frozen=True, kw_only=True)
class StepTrace:
    """One step of a run, or what was asked of it."""

    step: int
    first_sample: int
    num_samples: int
    """Samples of the complete step."""
    is_trained: bool
    """Whether the run is known to have come so far; else the step is planned."""
    known_from: str
    """The file that tells with which batch and layout, from the run folder on."""
    start: int | None
    """Number of the start that trained it, or will; None where only checkpoints tell."""
    samples: tuple[SampleTrace, ...]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a step."""

    step: int
    rank: int | None = None
    sample: int | None = None
    with_text: bool = False


def trace_step(history: History, data: TrainData, wanted: Wanted) -> StepTrace:
    """Work out the samples of a step and where their tokens come from.

    Raises: UserError for a step, rank or sample that there is none of; DamagedShardError.
    """
    numbers = history.samples_of_step(wanted.step)
    segment = history.segment_of_step(wanted.step)
    replicas = replicas_of(segment)
    places = _chosen(segment, numbers, wanted, replicas)
    samples = np.array(numbers, np.int64)[places]
    return StepTrace(
        step=wanted.step,
        first_sample=numbers.start,
        num_samples=len(numbers),
        is_trained=wanted.step <= history.trained_to,
        known_from=segment.known_from,
        start=segment.start,
        samples=tuple(_sample_traces(data, samples, places, segment, replicas, with_text=wanted.with_text)),
    )


def replicas_of(segment: Segment) -> int | None:
    """Return the data-parallel size that trained a segment; None where no file tells."""
    parallel = segment.config.parallel
    if segment.num_ranks is not None:
        return segment.num_ranks // model_parallel_size(parallel)
    return parallel.data_parallel_size


def replica_of_rank(segment: Segment, rank: int, replicas: int) -> int:
    """Return the replica that a rank is part of: ranks count tensor-, then context-, data- and pipeline-parallel."""
    parallel = segment.config.parallel
    return rank // (parallel.tensor_model_parallel_size * parallel.context_parallel_size) % replicas


def _chosen(segment: Segment, numbers: range, wanted: Wanted, replicas: int | None) -> np.ndarray:
    """Return the places in the step of the samples that are asked for: int64 [n]."""
    places = np.arange(len(numbers))
    if wanted.sample is not None:
        if wanted.sample not in numbers:
            raise UserError(
                f"--sample ({wanted.sample}) must be one of step {wanted.step}, {numbers.start} to {numbers.stop - 1}; --sample "
                f"{numbers.start} works"
            )
        return places[[wanted.sample - numbers.start]]
    if wanted.rank is None:
        return places
    if replicas is None:
        raise UserError(
            f"--rank ({wanted.rank}) needs a file of starts, and of step {wanted.step} only {segment.known_from} tells, with "
            f"parallel.data_parallel_size=null; --sample {numbers.start} works"
        )
    ranks = segment.num_ranks or world_size(segment.config.parallel)
    if not 0 <= wanted.rank < ranks:
        raise UserError(
            f"--rank ({wanted.rank}) must be from 0 to {ranks - 1}, as step {wanted.step} has {ranks}; --rank 0 works"
        )
    per_pass = segment.config.train.micro_batch_size
    return places[places // per_pass % replicas == replica_of_rank(segment, wanted.rank, replicas)]


def _sample_traces(
    data: TrainData,
    samples: np.ndarray,
    in_step: np.ndarray,
    segment: Segment,
    replicas: int | None,
    *,
    with_text: bool,
) -> list[SampleTrace]:
    sources, draws = data.mixture.locate(samples)
    places, passes = data.orders.start_tokens(sources, draws), data.orders.epochs(sources, draws) + 1
    parts = with_columns(data, sources, parts_of(data, sources, places))
    if with_text:
        texts = Texts(data)
        parts = [
            [texts.with_text(source, part) for part in of] for source, of in zip(sources.tolist(), parts, strict=True)
        ]
    per_pass = segment.config.train.micro_batch_size
    found = []
    for sample, place, number, of_source, pass_number, at in zip(
        samples.tolist(), places.tolist(), sources.tolist(), parts, passes.tolist(), in_step.tolist(), strict=True
    ):
        source = data.sources.train[number]
        found.append(
            SampleTrace(
                sample=sample,
                micro_batch=at // (per_pass * (replicas or 1)),
                replica=None if replicas is None else at // per_pass % replicas,
                source=str(source.shard.prefix),
                domain=source.domain,
                pass_number=pass_number,
                row=place if isinstance(source.order, PackedOrder) else None,
                parts=tuple(of_source),
            )
        )
    return found

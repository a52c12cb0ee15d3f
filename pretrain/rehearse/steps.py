"""How many micro batches to rehearse, and what follows for a step of more: all that a step does grows by the micro batch."""

from collections import Counter
from typing import Any

from pretrain.config.schema import ParallelConfig
from pretrain.rehearse.meter import Counts


def steps_to_rehearse(parallel: ParallelConfig, micro_batches: int) -> tuple[int, int]:
    """Return the micro batches of two steps, from which a step of ``micro_batches`` follows; twice the same if they are few.

    The first step is large enough for the pipeline to be full, so that the memory has its peak and every further micro batch
    does what the last one did. The interleaved schedule takes micro batches in groups of its stages.
    """
    stages, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    group = stages if virtual > 1 else 1
    full = 2 * stages if virtual > 1 else stages + 1
    if micro_batches <= full + group:
        return micro_batches, micro_batches
    return full, full + group


def counts_of(micro_batches: int, few: int, of_few: Counts, more: int, of_more: Counts) -> Counts:
    """Return the counts of a step of ``micro_batches`` from those of ``few`` and of ``more``."""
    if micro_batches == more:
        return of_more
    found = Counts()
    tables = zip(found.tables(), of_few.tables(), of_more.tables(), strict=True)
    for table, less, greater in tables:
        _extend(table, less, greater, micro_batches - few, more - few)
    return found


def _extend(table: Counter[Any], less: Counter[Any], greater: Counter[Any], further: int, measured: int) -> None:
    for key in less.keys() | greater.keys():
        grown = (greater[key] - less[key]) * further
        assert grown % measured == 0, f"{key}: {greater[key] - less[key]} more in {measured} micro batches"
        table[key] = less[key] + grown // measured

"""How many micro batches to rehearse, and what follows for a step of more: all that a step does grows by the micro batch."""

from collections import Counter
from typing import Any

from pretrain.config.schema import ParallelConfig
from pretrain.rehearse.meter import Counts


def steps_to_rehearse(parallel: ParallelConfig, micro_batches: int) -> tuple[int, int, int]:
    """Return the micro batches of three steps: one that warms up, and two from which a step of ``micro_batches`` follows.

    The second fills the pipeline, so that every micro batch of the third that it has more does what any further one would, and
    the memory has its peak. Few micro batches are rehearsed as they are. The interleaved schedule takes them in groups of its
    stages.
    """
    stages, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    group, full = (stages, 2 * stages) if virtual > 1 else (1, stages)
    if micro_batches <= full + group:
        return group, micro_batches, micro_batches
    return group, full, full + group


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

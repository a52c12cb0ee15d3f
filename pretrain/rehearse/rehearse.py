"""``fanal rehearse``: ranks of a layout, each rehearsed in a process of its own. Imports no torch."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from fanal.errors import UserError
from fanal.host_cores import host_cores
from pretrain.config.derive import world_size
from pretrain.config.rules import check_ranks
from pretrain.config.schema import RunConfig
from pretrain.config.stages import rank_sizes
from pretrain.parallel.quick_imports import quick_imports
from pretrain.rehearse.record import Rehearsal

AT_A_TIME = 2
"""Ranks that are rehearsed at once: each takes a core and 1 GB of memory."""


def rehearse(run: RunConfig, *, num_ranks: int, rank: int | None = None) -> list[Rehearsal]:
    """Rehearse one rank, or the first of the first, a middle and the last pipeline stage.

    Raises: UserError if the ranks do not fit the layout, or there is no such rank; whatever the run itself would raise.
    """
    if num_ranks < 1:
        raise UserError(f"--ranks ({num_ranks}) must be at least 1; --ranks {world_size(run.parallel)} works")
    check_ranks(run, num_ranks)
    if rank is not None and not 0 <= rank < num_ranks:
        raise UserError(
            f"--rank ({rank}) must be one of the {num_ranks:,} ranks, which count from 0; --rank {num_ranks - 1} works"
        )
    return in_processes(run, ranks=first_of_stages(run, num_ranks) if rank is None else [rank], num_ranks=num_ranks)


def first_of_stages(run: RunConfig, num_ranks: int) -> list[int]:
    """Return the first rank of the first, of a middle and of the last pipeline stage, as many as there are.

    The middle one has the most layers of those between, since it may need the most memory of all; of equal ones it is the middle.
    """
    sizes = rank_sizes(run.model, run.parallel)
    stages = len(sizes)
    middle = max(range(stages)[1:-1], key=lambda stage: (sizes[stage], -abs(stage - stages // 2)), default=0)
    return [stage * (num_ranks // stages) for stage in sorted({0, middle, stages - 1})]


def in_processes(run: RunConfig, *, ranks: Sequence[int], num_ranks: int) -> list[Rehearsal]:
    """Rehearse ranks, each in a new process: a rehearsal leaves one that is good for nothing else."""
    workers = max(1, min(len(ranks), AT_A_TIME, host_cores()))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, max_tasks_per_child=1) as pool:
        jobs = [pool.submit(_one, run, rank, num_ranks, rank == ranks[0]) for rank in ranks]
        return [job.result() for job in jobs]


def _one(run: RunConfig, rank: int, num_ranks: int, speaks: bool) -> Rehearsal:
    """Rehearse one rank in this process. Args: speaks: whether it may print warnings, where others would print the same."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at Ctrl-C the command speaks, and nobody else
    os.environ["OMP_NUM_THREADS"] = "1"  # nothing is computed
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # a warning that the groups, which are closed, have no backend
    if not speaks:
        logging.disable(logging.WARNING)
    with quick_imports():
        from pretrain.rehearse.rank import rehearse_rank

    device_type = "cpu" if run.parallel.device == "cpu" else "gpu"
    return rehearse_rank(run, rank=rank, num_ranks=num_ranks, device_type=device_type)

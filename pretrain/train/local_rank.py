"""The work of a rank that ``pretrain/parallel/local.py`` starts. Cheap to import, since the starting process imports it too."""

import os

from fanal.host_cores import host_cores
from pretrain.config.schema import RunConfig
from pretrain.parallel.quick_imports import quick_imports


def local_rank(run: RunConfig) -> int:
    """Train as one of this machine's ranks, which share its cores; returns the exit code."""
    with quick_imports():
        import torch

        from pretrain.train.loop import train

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, host_cores() // int(os.environ["WORLD_SIZE"])))
    return int(train(run))

"""What a rank started by ``pretrain/parallel/local.py`` does. Importing this file imports megatron-core."""

import os

import torch

from pretrain.config.schema import RunConfig
from pretrain.train.loop import train


def local_rank(run: RunConfig) -> int:
    """Train as one of this machine's ranks, which share its cores; returns the exit code."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["WORLD_SIZE"])))
    return int(train(run))

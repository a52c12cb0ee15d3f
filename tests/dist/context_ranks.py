"""What the ranks of a context-parallel layout do: one world, many runs. A world costs seconds to open."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pretrain.config.derive import world_size
from pretrain.config.schema import RunConfig
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.world import open_world
from tests.dist.harness import PRELOAD, Trace, read_trace
from tests.dist.resharding import train_each


def train_together(runs: Sequence[RunConfig]) -> int:
    """One rank: train runs of one layout, one after the other."""
    torch.set_num_threads(1)
    with open_world(runs[0].parallel, seed=runs[0].train.seed) as world:
        return train_each(runs, world)


def traces(runs: Mapping[str, RunConfig]) -> dict[str, Trace]:
    """Train runs of one layout from scratch, and read what each logged."""
    first = next(iter(runs.values()))
    code, failure = run_local_ranks(
        train_together, list(runs.values()),
        preload=PRELOAD, num_ranks=world_size(first.parallel), device_type="cpu", log_dir=Path(first.run_dir) / "logs",
    )  # fmt: skip
    return {name: read_trace(Path(run.run_dir), code, failure) for name, run in runs.items()}

"""Write a checkpoint: under a temporary name, synced, then renamed. A folder with its final name is whole."""

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path

from megatron.core import dist_checkpointing
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from pretrain.checkpoint.content import sharded_content
from pretrain.checkpoint.engine import InProcessSave
from pretrain.checkpoint.paths import (
    COMPLETE,
    CONFIG,
    DATA,
    SHARDS,
    STATE,
    checkpoints_dir,
    part_name,
    step_name,
    step_of,
)
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig
from pretrain.data.position import DataPosition, write_position
from pretrain.parallel.reduce import barrier
from pretrain.parallel.world import World
from pretrain.state import TrainState

logger = logging.getLogger(__name__)


def save_checkpoint(
    run: RunConfig,
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    state: TrainState,
    position: DataPosition,
    world: World,
) -> Path:
    """The checkpoint of this step; one that is already there is left alone.

    Collective: every rank calls it after the same step.
    """
    folder = checkpoints_dir(run.run_dir)
    final, part = folder / step_name(state.step), folder / part_name(state.step)
    barrier()  # nobody decides on `final` while rank 0 of an earlier call still renames it
    if (final / COMPLETE).is_file():
        return final
    if world.rank == 0:
        # Both are leftovers of a save that never ended: a part, or a renamed folder without its marker.
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        (part / SHARDS).mkdir(parents=True)
    barrier()
    content = sharded_content(model, optimizer, is_loading=False)
    dist_checkpointing.save(content, str(part / SHARDS), InProcessSave())
    barrier()
    if world.rank == 0:
        (part / STATE).write_text(json.dumps(dataclasses.asdict(state), indent=1) + "\n")
        write_position(position, part / DATA)
        (part / CONFIG).write_text(to_yaml(run))
        _sync_tree(part)
        (part / COMPLETE).write_text(f"step {state.step}\n")
        _sync_tree(part)
        part.rename(final)
        _sync(folder)
        _drop_old(folder, run.checkpoint.keep_last)
    barrier()
    return final


def _drop_old(folder: Path, keep_last: int | None) -> None:
    if keep_last is None:
        return
    found = sorted((step for path in folder.iterdir() if (step := step_of(path.name)) is not None), reverse=True)
    whole = [step for step in found if (folder / step_name(step) / COMPLETE).is_file()]
    oldest_kept = whole[:keep_last][-1]  # the one just written is whole
    for step in [step for step in found if step < oldest_kept]:
        old = folder / step_name(step)
        (old / COMPLETE).unlink(missing_ok=True)  # first: a half-deleted folder must not look whole
        shutil.rmtree(old)
        logger.info("deleted checkpoint %s: checkpoint.keep_last is %s", old, keep_last)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

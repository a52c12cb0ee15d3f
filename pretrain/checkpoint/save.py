"""Write a checkpoint: under a temporary name, hashed, synced, sealed, then renamed. Its final name is only given to a whole one."""

import os
import shutil
from pathlib import Path

from megatron.core import dist_checkpointing
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from pretrain.checkpoint.content import sharded_content
from pretrain.checkpoint.engine import InProcessSave
from pretrain.checkpoint.manifest import (
    Manifest,
    describe,
    entries_from_text,
    entries_to_text,
    manifest_bytes,
    seal_text,
)
from pretrain.checkpoint.paths import COMPLETE, CONFIG, DATA, MANIFEST, SHARDS, checkpoints_dir, part_name, step_name
from pretrain.checkpoint.retention import drop_old
from pretrain.checkpoint.state_file import write_state
from pretrain.checkpoint.verify import files_below, verify_checkpoint
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig
from pretrain.data.position import DataPosition, write_position
from pretrain.parallel.reduce import barrier, gather_texts
from pretrain.parallel.world import World
from pretrain.state import TrainState


def save_checkpoint(
    run: RunConfig,
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    state: TrainState,
    position: DataPosition,
    world: World,
) -> Path:
    """The checkpoint of this step; one that is already there is left alone.

    Collective: every rank calls it after the same step. Older ones are deleted (checkpoint.keep_last) once this one is whole.
    Raises: RuntimeError on rank 0 if the file system does not show what the ranks have written; nothing older is deleted then.
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
    engine = InProcessSave()
    dist_checkpointing.save(content, str(part / SHARDS), engine)
    # Each rank hashes what it wrote, while it is in the page cache; rank 0 waits here for all of them.
    own = gather_texts(entries_to_text(describe(part, f"{SHARDS}/{name}") for name in engine.file_names), world)
    if own is not None:
        write_state(part, state)
        write_position(position, part / DATA)
        (part / CONFIG).write_text(to_yaml(run))
        _seal(part, state.step, own)
        part.rename(final)
        _sync(folder)
        drop_old(folder, run.checkpoint.keep_last)
    barrier()
    return final


def _seal(folder: Path, step: int, gathered: list[str]) -> None:
    """Hash what no rank has hashed yet, write the manifest, bring all of it to the disk, and mark the folder whole.

    Raises: RuntimeError if a file is not there with the size that its rank saw.
    """
    entries = [entry for text in gathered for entry in entries_from_text(text)]
    rest = sorted(set(files_below(folder)) - {entry.path for entry in entries})
    entries += [describe(folder, path) for path in rest]
    content = manifest_bytes(Manifest(step=step, files=tuple(entries)))
    (folder / MANIFEST).write_bytes(content)
    _sync_tree(folder)
    (folder / COMPLETE).write_text(seal_text(content))
    _sync_tree(folder)
    problems = verify_checkpoint(folder, deep=False).problems
    if problems:
        raise RuntimeError(f"what was written to {folder} is not there, so it is no checkpoint: {'; '.join(problems)}")


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

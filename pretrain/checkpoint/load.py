"""Restore the newest whole checkpoint of a run, in any layout."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from omegaconf import OmegaConf

from pretrain.checkpoint.choose import choose_checkpoint
from pretrain.checkpoint.content import sharded_content
from pretrain.checkpoint.paths import CONFIG, DATA, SHARDS, step_of
from pretrain.checkpoint.state_file import read_state
from pretrain.config.schema import RunConfig
from pretrain.data.position import read_position
from pretrain.data.reader import TrainReader
from pretrain.model.gpt import unwrap
from pretrain.optim.optimizer import apply_settings, inner_optimizers
from pretrain.parallel.world import World
from pretrain.state import TrainState

logger = logging.getLogger(__name__)

FREE_TO_CHANGE = {"attention_backend"}
"""Fields of the model that a resumed run may change: they say how it is computed, not what it is."""


def load_checkpoint(
    run: RunConfig,
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    reader: TrainReader,
    world: World,
) -> TrainState:
    """Restore the newest checkpoint into model, optimizer and reader; the starting state if there is none.

    Collective: every rank calls it. Rank 0 chooses, so that ranks never load different steps. Nothing is unpickled before
    every byte of the checkpoint was compared with its manifest (choose.py).
    Raises: DamagedCheckpointError if there are checkpoints and none is whole; ValueError if the checkpoint is of another
    model, other data or another order of them, naming each difference, or of a later step than the run's last.
    """
    folder = choose_checkpoint(run.run_dir, world)
    if folder is None:
        return TrainState()
    check_same_run(run, folder)
    state = read_state(folder, step=step_of(folder.name) or 0)
    if state.step > run.train.train_steps:
        raise ValueError(
            f"train.train_steps ({run.train.train_steps}) must not be below the step of the newest checkpoint, {folder}; "
            f"train.train_steps={state.step} works, or another run_dir for a new run"
        )
    if state.consumed_samples:  # without a sample, as after an import, there is no position
        reader.resume(read_position(folder / DATA), where=str(folder))
    for part in inner_optimizers(optimizer):
        if isinstance(part, DistributedOptimizer):
            part._init_optimizer_states_with_dummy_values()  # the distributed optimizer loads into what is there
    content: Any = dist_checkpointing.load(sharded_content(model, optimizer, is_loading=True), str(folder / SHARDS))
    chunks = unwrap(model)
    for index, chunk in enumerate(chunks):
        chunk.load_state_dict(content["model" if len(chunks) == 1 else f"model{index}"])
    optimizer.load_state_dict(content["optimizer"])
    apply_settings(optimizer, run.optim)
    for part in inner_optimizers(optimizer):
        # All parameters now share one step tensor, which AdamW would count up once per parameter.
        for parameter_state in part.optimizer.state.values():
            parameter_state["step"] = parameter_state["step"].clone()
    logger.info("resumed from %s", folder)
    return state


def check_same_run(run: RunConfig, folder: Path) -> None:
    """Refuse to resume another model, or the same one with samples of another length or seed, or masked otherwise. Their
    tokens: data/same_data.py.

    Raises: ValueError naming each difference.
    """
    saved = OmegaConf.load(folder / CONFIG)
    differences = [
        f"model.{field.name} (checkpoint {saved.model.get(field.name)}, config {getattr(run.model, field.name)})"
        for field in dataclasses.fields(run.model)
        if field.name not in FREE_TO_CHANGE and saved.model.get(field.name) != getattr(run.model, field.name)
    ]
    now, defaults = OmegaConf.structured(run), OmegaConf.structured(RunConfig)
    for key in ("data.seq_length", "data.seed", "data.document_mask"):
        # A field that is younger than the checkpoint had its default.
        before = OmegaConf.select(saved, key, default=OmegaConf.select(defaults, key))
        after = OmegaConf.select(now, key)
        if before != after:
            differences.append(f"{key} (checkpoint {before}, config {after})")
    if differences:
        raise ValueError(
            f"checkpoint {folder} belongs to another run: {'; '.join(differences)}. Take these values back, or start a new "
            "run in another run_dir"
        )

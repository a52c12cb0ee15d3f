"""Restore the newest whole checkpoint of a run, in any layout."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pretrain.checkpoint.choose import choose_checkpoint
from pretrain.checkpoint.content import Part, parts_to_read
from pretrain.checkpoint.manifest import DamagedCheckpointError, read_small_file
from pretrain.checkpoint.paths import CONFIG, DATA, step_of
from pretrain.checkpoint.state_file import read_state
from pretrain.checkpoint.tensors import TensorReader, open_tensors
from pretrain.config.schema import RunConfig
from pretrain.data.position import read_position
from pretrain.data.reader import TrainReader
from pretrain.model.placement import place_parameters
from pretrain.optim.moments import STATES, owned_states, publish_masters, set_adam_step
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

    Collective: every rank calls it. Rank 0 chooses, so that ranks never load different steps. Nothing is read from it before
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
    restore_tensors(folder, model, optimizer, world, states=STATES)
    logger.info("resumed from %s", folder)
    return state


def restore_tensors(
    folder: Path,
    model: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    world: World,
    *,
    states: Sequence[str],
) -> None:
    """Give the optimizer these states of a checkpoint (see STATES), and the model its weights. Without moments the optimizer
    starts afresh.

    Every rank reads what its optimizer keeps; with the distributed optimizer that is each number once over the replicas, and
    the weights come from the masters over the network. Collective.
    """
    parts = parts_to_read(place_parameters(model, world), owned_states(optimizer))
    with open_tensors(folder) as reader:
        for part in parts:
            for state in states:
                _read(reader, part, state)
        set_adam_step(optimizer, reader.index.adam_step if len(states) > 1 else 0)
    publish_masters(optimizer, model)


@torch.no_grad()
def _read(reader: TensorReader, part: Part, state: str) -> None:
    values = part.states[state].detach()
    if values.device.type == "cpu":
        reader.read(part.tensor, state, part.box, values.numpy())
    else:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        reader.read(part.tensor, state, part.box, host.numpy())
        values.copy_(host)


def check_same_run(run: RunConfig, folder: Path) -> None:
    """Refuse to resume another model, or the same one with samples of another length or seed, or masked otherwise. Their
    tokens: data/same_data.py.

    Raises: ValueError naming each difference.
    """
    saved = _saved_config(folder)
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


def _saved_config(folder: Path) -> Any:
    """The config of a checkpoint. Raises: DamagedCheckpointError if it is none."""
    try:
        saved: Any = OmegaConf.create(read_small_file(folder / CONFIG).decode())
        if not all(key in saved for key in ("model", "data", "train")):
            raise ValueError("it has no model, data and train")
        return saved
    except (ValueError, TypeError, OmegaConfBaseException, YAMLError) as error:
        problem = str(error).partition("\n")[0]
        raise DamagedCheckpointError(
            f"{folder / CONFIG} is no config of a run ({type(error).__name__}: {problem})"
        ) from None

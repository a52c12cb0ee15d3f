"""Loading: restore the newest intact checkpoint of a run, in any layout (reshard); or start from one of another run."""

import contextlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from fanal.errors import UserError
from fanal.run_folder import DATA, step_of
from fanal.run_progress import NEW_RUN
from pretrain.checkpoint.disk.config_file import (
    model_in,
    objective_in,
    read_config,
    read_schedule,
    refuse_newer,
    value_in,
)
from pretrain.checkpoint.disk.origin import Origin, origin_of, read_origin
from pretrain.checkpoint.disk.state_file import read_state
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.verify import still_there
from pretrain.checkpoint.loading.choose import Early, choose_checkpoint, choose_origin
from pretrain.checkpoint.loading.fill import Fill
from pretrain.checkpoint.loading.init_from import (
    check_origin,
    check_same_origin,
    imported_tokenizer,
    kept_from,
    optimizer_change,
)
from pretrain.checkpoint.loading.rate_change import another_start, past_its_end, rate_change
from pretrain.config.misfits import flow
from pretrain.config.rules import check, check_rate_left
from pretrain.config.same_model import FREE_AT_RESUME, model_differences
from pretrain.config.schema import DataConfig, ObjectiveConfig, OptimConfig, RunConfig
from pretrain.data.position import read_position
from pretrain.data.reader import TrainReader
from pretrain.optim.ema import begin_averages
from pretrain.optim.registry import EMA, MASTER, checkpoint_states
from pretrain.optim.states import publish_masters, set_num_updates
from pretrain.parallel.world import World
from pretrain.state import TrainState

logger = logging.getLogger(__name__)

KEPT_AT_RESUME = ("data.seq_length", "data.seed", "data.document_mask", "data.packing", "optim.name")
"""Keys that a run that resumes may not change, besides its model. One that is younger than the checkpoint had its default."""


class Start(NamedTuple):
    """The point from which a run trains: its state, and where it came from."""

    state: TrainState
    origin: Origin | None
    """The checkpoint of another run that it started from, at its very first start; None for initial weights."""
    rate_change: str | None = None
    """One line for people if it resumes with another learning rate than the checkpoint's config gives, or behind its schedule."""
    optimizer_change: str | None = None
    """One line for people if it started with states of another optimizer."""

    @property
    def changes(self) -> tuple[str, ...]:
        """What people are told of this start."""
        return tuple(line for line in (self.rate_change, self.optimizer_change) if line is not None)


def load_checkpoint(
    run: RunConfig,
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    reader: TrainReader,
    world: World,
) -> Start:
    """Restore the newest checkpoint into model, optimizer and reader. If there is none, start: from the checkpoint that
    checkpoint.init_from names, or with the model as it was built.

    Collective: every rank calls it. Rank 0 chooses, so that ranks never load different steps. The tensors are read with
    the bytes that are hashed, and nothing is done with them before every byte of the checkpoint was compared with its manifest
    (choose.py): what a damaged one left in the optimizer is written over by the one before, or the run ends.
    Raises: DamagedCheckpointError if there are checkpoints and none is intact; UserError if the checkpoint is of another
    model, other data or another order of them, naming each difference, or of a later step than the run's last, or if the steps
    that are left would train nothing; and as ``start_from_origin``.
    """
    read: dict[Path, int] = {}

    def read_early(candidate: Path, hashed: Collection[str]) -> Early:
        try:
            states = states_in(candidate, run.optim)
            fill = Fill(candidate, model, optimizer, world, states=states, hashed=hashed)
        except Exception:  # of another model, or damaged: who looks at it next says which
            return Early()

        def read_rest() -> None:
            with contextlib.suppress(Exception):  # as above
                fill.read_rest()
                read[candidate] = fill.num_updates

        return Early(takes=fill.takes, meanwhile=read_rest)

    folder = choose_checkpoint(run.run_dir, world, begin=read_early)
    if folder is None:
        check(run)
        check_rate_left(run.optim, run.train, NEW_RUN)
        if run.checkpoint.init_from is None:
            return Start(TrainState(), None)
        return start_from_origin(run, model, optimizer, reader, world)
    check_same_run(run, folder)
    origin = read_origin(folder)
    check_same_origin(run, origin, folder)
    state = read_state(folder, step=step_of(folder.name) or 0)
    if state.step > run.train.train_steps:
        raise UserError(
            f"train.train_steps ({run.train.train_steps}) must not be below the step of the newest checkpoint, {folder}; "
            f"train.train_steps={state.step} works, or another run_dir for a new run"
        )
    since = state.standing
    check(run, since)
    check_rate_left(run.optim, run.train, since)
    if state.consumed_samples:  # without a sample, as after an import, there is no position
        reader.resume(read_position(folder / DATA), where=str(folder))
    states = states_in(folder, run.optim)
    if folder not in read:
        read[folder] = read_tensors(folder, model, optimizer, world, states=states)
    _finish_restore(read[folder], optimizer, model, states=states)
    logger.info("resumed from %s", folder)
    saved = read_schedule(folder) if state.step else None
    change = rate_change(saved, run.optim, run.train, since) if saved else None
    line = change or another_start(run.optim, since) or past_its_end(run.optim, run.train, since)
    return Start(state, origin, line)


def start_from_origin(
    run: RunConfig,
    model: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    reader: TrainReader,
    world: World,
) -> Start:
    """Give the model the weights of the checkpoint that checkpoint.init_from names, and the optimizer its states and its
    number of updates if they are to be kept; of another optimizer those that mean the same. Steps, samples and their order
    start anew.

    Collective: every rank calls it. Raises: UserError or DamagedCheckpointError if there is none, if it is damaged, or if
    the run cannot start from it (init_from.py).
    """
    folder, step = choose_origin(run, world)
    config = run.checkpoint
    with still_there(folder):
        check_origin(run, folder, tokenizer_sha256=reader.data.sources.tokenizer_sha256)
        average = (EMA,) if config.init_optimizer == "keep" and EMA in states_in(folder, run.optim) else ()
        states = (MASTER, *kept_from(run, folder), *average)
        restore_tensors(folder, model, optimizer, world, states=states)
        change = optimizer_change(run, folder)
        origin = origin_of(folder, step=step, init_from=str(config.init_from), init_optimizer=config.init_optimizer)
    if origin.data is None and imported_tokenizer(folder) is None:
        logger.warning(
            "%s has no record of its data and no tokenizer: whether it was trained with data.tokenizer cannot be checked",
            folder,
        )
    return Start(TrainState(), origin, optimizer_change=change)


def restore_tensors(
    folder: Path,
    model: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    world: World,
    *,
    states: Sequence[str],
) -> None:
    """Give the optimizer these states of a checkpoint, and the model its weights. With only the master values the optimizer
    starts afresh; a moving average that is not among them begins at the weights. Collective. Raises: as ``read_tensors``.
    """
    num_updates = read_tensors(folder, model, optimizer, world, states=states)
    _finish_restore(num_updates if len(states) > 1 else 0, optimizer, model, states=states)


def states_in(folder: Path, optim: OptimConfig) -> tuple[str, ...]:
    """Return what a run takes from a checkpoint that its optimizer keeps on with: all that it keeps, but for a moving average that
    is not there. Raises: DamagedCheckpointError."""
    states = checkpoint_states(optim)
    if EMA not in states or EMA in read_index(folder).states:
        return states
    return tuple(state for state in states if state != EMA)


def _finish_restore(
    num_updates: int, optimizer: MegatronOptimizer, model: Sequence[DistributedDataParallel], *, states: Sequence[str]
) -> None:
    """Finish a restore once the optimizer's memory holds a checkpoint's tensors: the weights come from the masters, over the
    network where replicas share them. Collective.
    """
    set_num_updates(optimizer, num_updates)
    if EMA not in states:
        begin_averages(optimizer)
    publish_masters(optimizer, model)


def read_tensors(
    folder: Path,
    model: Sequence[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    world: World,
    *,
    states: Sequence[str],
) -> int:
    """Fill the optimizer's memory with these states of a checkpoint; returns the number of updates that were made.

    Raises: DamagedCheckpointError if the checkpoint does not hold them.
    """
    fill = Fill(folder, model, optimizer, world, states=states)
    fill.read_rest()
    return fill.num_updates


def check_same_run(run: RunConfig, folder: Path) -> None:
    """Refuse to resume another model, or the same one with another optimizer, or with samples of another length or seed,
    or masked otherwise, or with other objectives. Their tokens: data/same_data.py.

    Raises: UserError naming each difference, or if a newer version wrote the checkpoint.
    """
    saved = read_config(folder)
    differences = model_differences(model_in(saved, folder), run.model, free=FREE_AT_RESUME)
    refuse_newer(folder, "data", saved["data"], DataConfig)
    for key in KEPT_AT_RESUME:
        before, after = value_in(saved, key), attrgetter(key)(run)
        if before != after:
            differences.append(f"{key} (checkpoint {before}, config {after})")
    differences += _objective_differences(objective_in(saved, folder), run.objective)
    if differences:
        raise UserError(
            f"checkpoint {folder} belongs to another run: {'; '.join(differences)}. Set them back to the checkpoint's values, or "
            "start a new run in another run_dir"
        )


def _objective_differences(saved: ObjectiveConfig, now: ObjectiveConfig) -> list[str]:
    """Return the objectives that differ, as a config writes them."""
    pairs = [(field.name, getattr(saved, field.name), getattr(now, field.name)) for field in fields(saved)]
    return [
        f"objective.{name} (checkpoint {_in_yaml(before)}, config {_in_yaml(after)})"
        for name, before, after in pairs
        if before != after
    ]


def _in_yaml(value: Any) -> str:
    """An objective as one line of YAML."""
    parts = [asdict(part) for part in value] if isinstance(value, list) else value
    return flow(asdict(parts) if is_dataclass(parts) and not isinstance(parts, type) else parts)

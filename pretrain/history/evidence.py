"""The points of a run that its folder knows for certain: where each start went on from, and where each checkpoint was written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.host_cores import host_cores
from fanal.run_folder import CONFIG, DATA, STARTS_DIR, checkpoints_dir, start_name, step_of
from fanal.run_progress import Standing
from pretrain.checkpoint.disk.config_file import read_config
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file
from pretrain.checkpoint.disk.origin import Origin, read_origin
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.state_file import read_state
from pretrain.checkpoint.disk.verify import GoneError, verify_checkpoint
from pretrain.config.load import typed
from pretrain.config.renamed import with_current_names
from pretrain.config.schema import RunConfig
from pretrain.data.position import DataPosition, read_position
from pretrain.log.start_file import StartFile

MAX_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a run, and the configuration of the process that was there."""

    standing: Standing
    config: RunConfig
    known_from: str
    """The file that says so, from the run folder on."""
    start: int | None = None
    """Number of the start that went on from here; None of a checkpoint."""
    num_ranks: int | None = None


@dataclass(frozen=True, kw_only=True)
class Newest:
    """The newest intact checkpoint of a run."""

    folder: Path
    standing: Standing
    position: DataPosition | None
    """The run's position in its data; None where it has read none."""
    origin: Origin | None


def point_of_start(start: StartFile, run_dir: Path) -> Point:
    """The point at which a start began. Raises: UserError if a newer version wrote it."""
    where = f"{STARTS_DIR}/{start_name(start.number)}"
    return Point(
        standing=Standing(start.step, start.consumed_samples, start.decay_start_sample),
        config=config_in(start.config, run_dir, where=str(run_dir / where)),
        known_from=where,
        start=start.number,
        num_ranks=start.num_ranks,
    )


def intact_checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run that are what was written, tensors aside, oldest first.

    Raises: DamagedCheckpointError if there are some and none is intact.
    """
    intact, problems = [], []
    for folder in checkpoints_in(checkpoints_dir(run_dir)):
        try:
            finding = verify_checkpoint(folder, deep=False, num_threads=min(MAX_THREADS, host_cores()))
        except GoneError:  # its run deletes old ones
            continue
        problems += finding.problems
        if not finding.problems:
            intact.append(folder)
    if problems and not intact:
        raise DamagedCheckpointError("; ".join(problems))
    return intact[::-1]


def newest_of(folder: Path) -> Newest:
    """Read what the newest checkpoint says of where its run stood. Raises: DamageError."""
    return Newest(
        folder=folder,
        standing=read_state(folder, step=step_of(folder.name) or 0).standing,
        position=read_position(folder / DATA) if (folder / DATA).is_file() else None,
        origin=read_origin(folder),
    )


def points_of_checkpoints(folders: Sequence[Path], run_dir: Path) -> list[Point]:
    """The points at which these checkpoints were written, in their order. Raises: DamagedCheckpointError; UserError."""
    found: list[Point] = []
    known: dict[bytes, RunConfig] = {}  # a run has thousands of checkpoints and few configurations
    for folder in folders:
        text = read_small_file(folder / CONFIG)
        if text not in known:
            known[text] = config_in(read_config(folder), run_dir, where=str(folder / CONFIG))
        found.append(
            Point(
                standing=read_state(folder, step=step_of(folder.name) or 0).standing,
                config=known[text],
                known_from=folder.relative_to(run_dir).as_posix(),
            )
        )
    return found


def config_in(saved: Mapping[str, Any], run_dir: Path, *, where: str) -> RunConfig:
    """Return the configuration that a run kept; younger keys have their defaults, and its run_dir is where the run lies now.

    Raises: UserError if a newer version wrote it.
    """
    try:
        config = typed([with_current_names(dict(saved), where=where)], RunConfig, where=where)
    except UserError as error:
        raise UserError(
            f"{where} is not a configuration that this version knows ({error}); use the version that wrote it"
        ) from None
    return replace(config, run_dir=str(run_dir))

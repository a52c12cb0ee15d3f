"""The checkpoints that are averaged: those of a run that were asked for, or those that were named, every byte of them verified."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.host_cores import host_cores
from fanal.run_folder import DATA, checkpoints_dir, step_of
from fanal.shown import on_one_line
from pretrain.checkpoint.disk.average_file import read_average
from pretrain.checkpoint.disk.config_file import read_model
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.origin import sealed_hash
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.state_file import read_state
from pretrain.checkpoint.disk.tensor_index import TensorIndex, read_index
from pretrain.checkpoint.disk.verify import GoneError, is_checkpoint, real_path, still_there, verify_checkpoint
from pretrain.config.same_model import FREE_AT_RESUME, model_differences
from pretrain.convert.ours.import_record import read_import
from pretrain.data.position import read_position
from pretrain.optim.registry import EMA, MASTER
from pretrain.state import TrainState

MAX_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be averaged: of one run some checkpoints by their steps, or checkpoints by their folders."""

    paths: tuple[Path, ...]
    """The folder of one run, or those of checkpoints."""
    last: int | None = None
    """Number of the newest checkpoints of the run; None for all that the steps allow."""
    from_step: int | None = None
    to_step: int | None = None
    """First and last step that count; None for no limit."""
    state: str = MASTER
    """What is averaged, by its name in a checkpoint: the master weights, or their moving average."""

    @property
    def least(self) -> int:
        """The fewest checkpoints that make sense: one where its moving average is to become the weights."""
        return 2 if self.state == MASTER else 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint that was verified to the last byte."""

    folder: Path
    manifest_sha256: str
    paths: tuple[str, ...]
    """Its files, from the folder on."""
    state: TrainState
    index: TensorIndex


def open_sources(wanted: Wanted) -> list[Source]:
    """Find and verify the checkpoints, and check that they are of one model and tokenizer; in the order of their steps.

    Raises: UserError naming what must change; DamagedCheckpointError if one that was named is damaged.
    """
    is_run = len(wanted.paths) == 1 and not is_checkpoint(wanted.paths[0])
    found = _of_run(wanted.paths[0], wanted) if is_run else _named(wanted)
    found.sort(key=lambda source: (source.state.step, source.manifest_sha256))
    for source in found:
        with still_there(source.folder):
            _check_kind(source, wanted)
            _check_like(source, found[-1])
    return found


def _of_run(run_dir: Path, wanted: Wanted) -> list[Source]:
    """Return the newest intact checkpoints of a run within the steps, with a warning about each damaged one that is passed over."""
    says_nothing = wanted.last is None and wanted.from_step is None and wanted.to_step is None
    last = wanted.least if says_nothing else wanted.last
    there = checkpoints_in(checkpoints_dir(run_dir))
    if not there:
        raise UserError(
            f"RUN_DIR ({run_dir}) must be a run's folder with checkpoints in it, or several checkpoints' folders must be named; "
            "runs/tiny works once that run has saved"
        )
    if len(there) < wanted.least:
        raise UserError(
            f"RUN_DIR ({run_dir}) must have at least {wanted.least} checkpoints, since a mean of one is that one, and has "
            f"{there[0]} alone; fanal export {there[0]} works, and checkpoint.interval decides how many a run writes"
        )
    if says_nothing and wanted.least > 1:
        raise UserError(
            f"--last K, or --from-step and --to-step, must say which of the {len(there)} checkpoints of {run_dir} are averaged; "
            f"--last {max(2, min(5, len(there)))} works"
        )
    if last is not None and last < wanted.least:
        raise UserError(f"--last ({last}) must be at least {wanted.least}; --last {wanted.least} works")
    low, high = wanted.from_step or 0, wanted.to_step
    candidates = [path for path in there if low <= _step(path) and (high is None or _step(path) <= high)]
    found: list[Source] = []
    for folder in candidates:
        if last is not None and len(found) == last:
            break
        try:
            found.append(_verified(folder))
        except GoneError:
            continue
        except DamagedCheckpointError as error:
            print(f"warning: a damaged checkpoint is passed over: {on_one_line(str(error))}", file=sys.stderr)
    fewest = wanted.least if last is None else last
    if len(found) < fewest:
        raise UserError(_too_few(run_dir, [_step(path) for path in there], found, wanted, fewest))
    return found


def _step(folder: Path) -> int:
    return step_of(folder.name) or 0


def _too_few(run_dir: Path, steps: Sequence[int], found: Sequence[Source], wanted: Wanted, fewest: int) -> str:
    has_limits = wanted.from_step is not None or wanted.to_step is not None
    asked = f"--last ({wanted.last})" if wanted.last is not None else f"--from-step and --to-step of {run_dir}"
    if len(found) >= wanted.least:
        works = f"--last {len(found)} works"
    elif has_limits:
        works = f"--from-step {min(steps)} --to-step {max(steps)} has them all"
    else:
        works = "intact checkpoints of another run work"
    return (
        f"{asked} must be of {fewest} intact checkpoints, and {run_dir} has {len(found)} of them where they are looked for (steps "
        f"there: {', '.join(map(str, sorted(steps)))}); {works}; checkpoint.keep_last decides how many a run keeps"
    )


def _named(wanted: Wanted) -> list[Source]:
    for name in ("last", "from_step", "to_step"):
        if (value := getattr(wanted, name)) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} ({value}) must be left out where checkpoints are named one by one; the folder of one "
                "run alone works with it"
            )
    for path in wanted.paths:
        if not is_checkpoint(path):
            raise UserError(f"CHECKPOINT ({path}) must be a checkpoint's folder where several are named; step-N works")
    if len(wanted.paths) < wanted.least:
        raise UserError(
            f"CHECKPOINT ({wanted.paths[0]}) must be named with at least one more, since a mean of one is that one; its run's "
            "folder with --last 2 works"
        )
    found = [_verified(real_path(path)) for path in wanted.paths]
    seen: dict[str, Path] = {}
    for source in found:
        if source.manifest_sha256 in seen:
            raise UserError(
                f"CHECKPOINT ({source.folder}) must be named once, and is {seen[source.manifest_sha256]} again; each of them once "
                "works"
            )
        seen[source.manifest_sha256] = source.folder
    return found


def _verified(folder: Path) -> Source:
    """Verify every byte of a checkpoint. Raises: DamagedCheckpointError naming each problem; GoneError."""
    finding = verify_checkpoint(folder, deep=True, num_threads=min(MAX_THREADS, host_cores()))
    if finding.problems or finding.manifest is None:
        raise DamagedCheckpointError("; ".join(finding.problems))
    with still_there(folder):
        return Source(
            folder=folder,
            manifest_sha256=sealed_hash(folder),
            paths=tuple(entry.path for entry in finding.manifest.files),
            state=read_state(folder, step=finding.manifest.step),
            index=read_index(folder),
        )


def _check_kind(source: Source, wanted: Wanted) -> None:
    """Check that a checkpoint is of a run, and holds what is to be averaged. Raises: UserError."""
    if read_import(source.folder) is not None:
        raise UserError(
            f"CHECKPOINT ({source.folder}) must be of a run, and was imported; the checkpoints of a run that starts from it with "
            "checkpoint.init_from work"
        )
    if (average := read_average(source.folder)) is not None:
        raise UserError(
            f"CHECKPOINT ({source.folder}) must be of a run, and is itself an average; the checkpoints that it is the mean of "
            f"work: {' '.join(part.checkpoint for part in average.sources)}"
        )
    if wanted.state not in source.index.states:
        assert wanted.state == EMA, "every checkpoint has masters"
        raise UserError(
            f"--ema needs the moving average of a run with optim.ema_decay, and {source.folder} has none; the mean of its weights, "
            "without --ema, works"
        )


def _check_like(source: Source, newest: Source) -> None:
    """Check that a checkpoint has the model and the tokenizer of the newest one. Raises: UserError naming each difference."""
    differences = model_differences(read_model(source.folder), read_model(newest.folder), free=FREE_AT_RESUME)
    named = [text.replace("(checkpoint ", "(there ").replace(", config ", ", here ") for text in differences]
    shapes, expected = ({name: part.shape for name, part in of.index.tensors.items()} for of in (source, newest))
    if shapes != expected and not named:
        name = next(name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name))
        named.append(f"the shape of {name} (there {shapes.get(name)}, here {expected.get(name)})")
    theirs, ours = (_tokenizer(of) for of in (source, newest))
    if theirs != ours:
        named.append(f"the tokenizer (there sha256 {_short(theirs)}, here {_short(ours)})")
    if named:
        raise UserError(
            f"CHECKPOINT ({source.folder}) must be of the model and the tokenizer of {newest.folder}, but differs in "
            f"{'; '.join(named)}; checkpoints of one run work"
        )


def _tokenizer(source: Source) -> str | None:
    return read_position(source.folder / DATA).tokenizer_sha256 if DATA in source.paths else None


def _short(sha256: str | None) -> str:
    return "not known" if sha256 is None else sha256[:12]

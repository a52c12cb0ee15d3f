"""``fanal verify``: checkpoints against their manifests, and their numbers against the sums of what was trained, as a table."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from fanal.console import Console
from fanal.errors import FanalError, UserError
from fanal.host_cores import host_cores
from fanal.run_folder import DATA, REASON, checkpoints_dir
from fanal.shown import on_one_line
from pretrain.checkpoint.disk.average_file import described as described_average
from pretrain.checkpoint.disk.average_file import read_average
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, Manifest
from pretrain.checkpoint.disk.origin import chain, described, read_origin
from pretrain.checkpoint.disk.retention import bad_in, checkpoints_in
from pretrain.checkpoint.disk.stored_sums import sum_problems
from pretrain.checkpoint.disk.verify import (
    GoneError,
    is_checkpoint,
    real_path,
    refuse_gone,
    still_there,
    verify_checkpoint,
)
from pretrain.data.position import read_position

MAX_THREADS = 8


def verify(path: str | Path, deep: bool, console: Console) -> list[str]:
    """Verify a checkpoint, or every checkpoint of a run, newest first: a table, and each problem on standard error.

    What a run has set aside is listed and not verified again; it counts as a problem if the run has nothing else.
    Returns: the problems.
    Raises: UserError if the path is neither a checkpoint nor a run folder with one; GoneError if all were deleted meanwhile.
    """
    checkpoints, aside = _checkpoints_at(Path(path))
    table = Table("checkpoint", "files", "bytes", "finding", show_edge=False, header_style="bold")
    problems: list[str] = []
    gone: GoneError | None = None
    for checkpoint in checkpoints:
        try:
            manifest, found = _look(checkpoint, deep)
        except GoneError as error:  # of a run that goes on meanwhile, and keeps the newest
            gone = error
            continue
        files = manifest.files if manifest else ()
        counts = (f"{len(files):,}", f"{sum(file.bytes for file in files):,}") if manifest else ("", "")
        good = "every byte as written" if deep else "all but the tensors as written; --deep reads those"
        table.add_row(on_one_line(checkpoint.name), *counts, "FAILED" if found else good)
        problems += found
    if gone is not None and not table.rows:
        raise gone
    for folder in aside:
        table.add_row(*map(on_one_line, (folder.name, "", "", f"set aside, see {folder.name}.{REASON}")))
    console.print(table)
    for checkpoint in checkpoints[:1]:  # all of a run started from the same
        for line in [*_origins(checkpoint), *_compared(checkpoint)]:
            console.print(on_one_line(line), soft_wrap=True)
    if not checkpoints:
        problems.append(f"{path} has no checkpoint but those that were set aside")
    say_problems(problems)
    return problems


def say_problems(problems: Sequence[str]) -> None:
    """Print each problem on standard error."""
    for problem in problems:
        print(f"error: {on_one_line(problem)}", file=sys.stderr)


def _look(checkpoint: Path, deep: bool) -> tuple[Manifest | None, list[str]]:
    """Its manifest, if there is one to read, and what is wrong. Raises: GoneError."""
    finding = verify_checkpoint(checkpoint, deep=deep, num_threads=min(MAX_THREADS, host_cores()))
    found = list(finding.problems)
    if deep and not found:
        with still_there(checkpoint):
            found = list(sum_problems(checkpoint))
    if found:
        refuse_gone(checkpoint)
    return finding.manifest, found


def _origins(checkpoint: Path) -> list[str]:
    """What it is the mean of, if it is an average, and the runs before this one, the last of them first."""
    try:
        average = read_average(checkpoint)
        lines = [] if average is None else [described_average(average)]
        return lines + [f"started from {described(origin)}" for origin in chain(read_origin(checkpoint))]
    except (DamagedCheckpointError, FileNotFoundError):
        return []  # it is among the problems, or gone by now


def _compared(checkpoint: Path) -> list[str]:
    """How much of the data was compared with its hashes while the run trained; the rest is the word of the shards' manifests."""
    if not (checkpoint / DATA).is_file():
        return []
    try:
        position = read_position(checkpoint / DATA)
    except FanalError:
        return []  # it is among the problems
    compared, total = (sum(part.num_tokens for part in parts) for parts in (position.verified, position.sources))
    return [
        f"training data: {compared:,} of {total:,} tokens were compared with the hashes of their shards in training"
    ]


def _checkpoints_at(path: Path) -> tuple[list[Path], list[Path]]:
    """(What to verify, what was set aside)."""
    if is_checkpoint(path):
        return [real_path(path)], []  # not a link's own name: the folder's says which step it must hold
    found, aside = (look(checkpoints_dir(path)) for look in (checkpoints_in, bad_in))
    if not found and not aside:
        works = "runs/tiny/checkpoints/step-00000200 and runs/tiny work once that run has saved"
        if checkpoints_in(path) or bad_in(path):  # the folder between the two
            works = f"{path.parent} works"
        raise UserError(
            f"PATH ({path}) must be a checkpoint's folder, a run's folder with one in it, an export's folder or the prefix of a "
            f"shard; {works}"
        )
    return found, aside

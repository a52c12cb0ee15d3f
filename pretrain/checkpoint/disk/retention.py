"""Retention: which folders of a run are deleted or set aside (old checkpoints, leftovers, damaged ones). Only the holder of the
run folder's lock acts here, that is rank 0 or its writer process; no collective."""

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.new_files import write_new
from fanal.run_folder import COMPLETE, REASON, bad_name, is_bad, is_part, part_name, step_name, step_of

logger = logging.getLogger(__name__)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return a run's checkpoint folders by their names alone, newest first; verify.py tells whether they are intact."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if step_of(path.name) is not None and path.is_dir()]
    return sorted(found, key=lambda path: step_of(path.name) or 0, reverse=True)


def bad_in(folder: Path) -> list[Path]:
    """Return the folders that were set aside, in the order of their names."""
    return sorted(path for path in folder.iterdir() if is_bad(path.name)) if folder.is_dir() else []


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints stay: the newest ``last`` of them, and always those whose step is a multiple of ``every_steps``."""

    last: int | None
    """Number of the newest checkpoints to keep; None keeps all."""
    every_steps: int | None


def drop_old(folder: Path, keep: Keep) -> None:
    """Delete the checkpoints that need not stay, and incomplete ones older than the newest ``keep.last``.

    Called after a checkpoint was sealed: that one is complete, so the newest complete one always stays.
    Raises: OSError for the first that cannot be deleted, once all the others are.
    """
    if keep.last is None:
        return
    found = checkpoints_in(folder)
    complete = [path for path in found if (path / COMPLETE).is_file()]
    oldest_kept, are_complete = complete[: keep.last][-1], set(complete)
    refused: OSError | None = None
    for old in found[found.index(oldest_kept) + 1 :]:
        if keep.every_steps is None or (step_of(old.name) or 0) % keep.every_steps or old not in are_complete:
            try:
                _delete(old)
                logger.info("deleted checkpoint %s: checkpoint.keep_last is %s", old, keep.last)
            except OSError as error:
                refused = refused or error
    if refused is not None:
        raise refused


def remove_leftovers(folder: Path) -> None:
    """Delete what a save or a deletion that did not finish has left. Only for the holder of the run folder's lock.

    What cannot be deleted, such as another user's files, is named in a warning, and hinders only the checkpoint of its own step.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if is_part(path.name.removesuffix(f".{REASON}")):
            logger.warning("removing %s, left by a save or a deletion that did not finish", path)
            try:
                _remove(path)
            except OSError as error:
                logger.warning("%s cannot be removed (%s)", path, error.strerror)


def set_aside(checkpoint: Path, problems: Sequence[str]) -> Path:
    """Rename a damaged checkpoint to ``step-N.bad`` and write why beside it; the folder's content is left as it was found.

    Returns: its new path.
    """
    folder, step = checkpoint.parent, step_of(checkpoint.name)
    assert step is not None, f"{checkpoint} has no checkpoint's name"
    count = 0
    while os.path.lexists(folder / bad_name(step, count)):
        count += 1
    aside = folder / bad_name(step, count)
    # A file's name may hold bytes that are no text.
    reason = "".join(f"{problem}\n" for problem in problems).encode(errors="backslashreplace").decode()
    # First: a bad folder always has its reason.
    write_new(folder / f"{aside.name}.{REASON}", reason)
    checkpoint.rename(aside)
    logger.error("DAMAGED CHECKPOINT %s, set aside as %s:\n%s", checkpoint, aside, reason.rstrip())
    return aside


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint, under another name first: a half-deleted folder must not look like a checkpoint. One that is
    protected keeps its name.

    Raises: OSError.
    """
    step = step_of(checkpoint.name)
    assert step is not None and checkpoint.name == step_name(step), f"{checkpoint} has no checkpoint's name"
    for folder, _, _ in () if checkpoint.is_symlink() else os.walk(checkpoint):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
    part = checkpoint.with_name(part_name(step))
    _remove(part)
    checkpoint.rename(part)
    _remove(part)


def _remove(path: Path) -> None:
    """Remove a file or a folder with its content.

    Raises: OSError with this path: rmtree's own has but a name."""
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None

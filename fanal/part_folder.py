"""A folder that is complete or absent: written as DIR.part under a lock, synced, renamed to DIR at the end."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fanal.errors import UserError, error_type
from fanal.files import part_path, sync_path
from fanal.locks import take_lock_by_name

NO_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOTEMPTY)
"""Error numbers of a target that does not take what is written. No other error is the target's fault for sure."""


@contextlib.contextmanager
def part_folder(
    final: Path, *, name: str, act: str, error: type[UserError], is_ours: Callable[[Path], bool]
) -> Iterator[Path]:
    """Give the empty folder DIR.part, locked by this process; it is removed at the end unless the block renames it.

    A killed process leaves DIR.part, which the next one for the same DIR wipes, and nothing under DIR.
    Args: name: of the target in messages, such as "--to (DIR)"; act: what writes it, such as "export"; error: the exception to
        raise; is_ours: whether such an act wrote this file or folder of DIR.part, so that it may be wiped.
    Raises: error if another process writes it, if it holds a file that no such act wrote or if the disk does not take it; OSError.
    """
    part = part_path(final)
    is_new = True
    try:
        try:
            part.mkdir(parents=True)
        except FileExistsError:
            is_new = False
        descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as problem:
        raise error_type(problem, error)(
            f"{name} cannot be written: {problem.strerror} ({problem.filename or part})"
        ) from None
    try:
        # Of one made just now the owner may differ, too: network file systems map users, root above all.
        if not is_new and (owner := os.fstat(descriptor).st_uid) != os.geteuid():
            raise error(
                f"{part} belongs to user {owner}, who could change what is written there; choose another name than {final}"
            )
        if not take_lock_by_name(part, descriptor):
            raise error(f"{part} is being written by another {act}; wait for it, or choose another name than {final}")
        _wipe(part, act=act, error=error, is_ours=is_ours)
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)  # an error on its way out says more than this could
    except OSError as problem:
        if problem.errno not in NO_WRITING:
            raise
        raise error_type(problem, error)(
            f"{name} could not be written, and nothing is left of it: {problem.strerror} ({problem.filename or part})"
        ) from None
    finally:
        os.close(descriptor)


def publish(part: Path, final: Path) -> None:
    """Give the folder its name, each on the disk before the next. Over an empty folder too; onto a full one it fails."""
    sync_path(part)
    part.rename(final)
    sync_path(final.absolute().parent)


def _wipe(part: Path, *, act: str, error: type[UserError], is_ours: Callable[[Path], bool]) -> None:
    """Delete what a killed process left in the folder."""
    found = sorted(part.iterdir())
    for path in found:
        if not is_ours(path):
            raise error(f"{part} is in the way, with {path.name} that no {act} wrote; remove it")
    for path in found:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

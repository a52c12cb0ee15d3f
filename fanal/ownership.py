"""Who may change a file or a folder: its owner alone, or others too. Judged as ssh judges its own files (StrictModes).

A folder's permissions are the classic ones; an access list shows in them as its mask, in the place of the group's.
"""

import contextlib
import os
import stat
from pathlib import Path

from fanal.errors import UserError, error_type
from fanal.run_folder import REQUESTS

OTHERS = stat.S_IWGRP | stat.S_IWOTH
"""Bits by which others than the owner may write."""
ROOT = 0


def why_not_own(path: Path, *owners: int) -> str:
    """Return why others than this user may change what has this name; empty if nobody else may. No link is followed.

    Args: owners: other users who may have made it. Root may own anything.
    Raises: OSError, such as where it does not exist.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"it is a link to {path.readlink()}"
    if found.st_uid not in (ROOT, os.geteuid(), *owners):
        return f"it belongs to user {found.st_uid}"
    return others_write(found)


def others_write(found: os.stat_result) -> str:
    """Return how others than its owner may write to something; empty if they may not."""
    mode = stat.S_IMODE(found.st_mode)
    who = [name for name, bit in (("its group", stat.S_IWGRP), ("everybody", stat.S_IWOTH)) if mode & bit]
    return f"{' and '.join(who)} may write to it (mode {mode:o})" if who else ""


def make_own_folder(folder: Path, *, name: str) -> None:
    """Make a folder that its owner alone may write to, whatever umask says. One that this user made before is made so.

    Args: name: of the folder in messages.
    Raises: UserError if there is something else, such as a link or another user's folder; OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o777 & ~OTHERS)
    except FileExistsError:
        close_folder(folder, name=name)


def close_folder(folder: Path, *, name: str) -> None:
    """Take the right to write to a folder of this user from all others. Raises: as ``make_own_folder``."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError:
        raise _not_own(folder, name, why_not_own(folder) or "it is not a folder") from None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise _not_own(folder, name, f"it belongs to user {found.st_uid}")
        close_to_others(descriptor)
    finally:
        os.close(descriptor)


def close_file(path: Path) -> None:
    """Take the right to write to a file of this user from all others, if it is there; another user's stays as it is."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            close_to_others(descriptor)
        finally:
            os.close(descriptor)


def close_to_others(descriptor: int) -> None:
    """Take the right to write to an open file or folder from all but its owner. Raises: OSError, if that is another user."""
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & OTHERS:
        os.fchmod(descriptor, mode & ~OTHERS)


def open_as_folder(descriptor: int, folder: Path) -> None:
    """Let those read and write an open file of this user who may write in its folder, whatever umask says; no others get more.

    The group of the file becomes that of the folder, where its group may write there. Another user's file stays as it is: whoever
    made it has opened it. Raises: OSError.
    """
    found, above = os.fstat(descriptor), folder.stat()
    writers = above.st_mode & OTHERS
    if found.st_uid != os.geteuid() or not writers:
        return
    if writers & stat.S_IWGRP and found.st_gid != above.st_gid:
        try:
            os.fchown(descriptor, -1, above.st_gid)
        except OSError:  # this user is not of that group: it would be opened to another one
            writers &= ~stat.S_IWGRP
    mode = stat.S_IMODE(found.st_mode)
    wanted = mode | writers | writers << 1
    if wanted != mode:
        os.fchmod(descriptor, wanted)


def close_new_files() -> int:
    """See to it that others may not write to what this process makes from now on, whatever umask says; returns what it said."""
    before = os.umask(OTHERS)
    os.umask(before | OTHERS)
    return before


def open_parents(path: Path) -> list[str]:
    """Return the folders above a path, each with why, in which others may rename what lies there, and put theirs in its place."""
    found = []
    for folder in Path(os.path.realpath(path)).parents:
        status = folder.stat()
        if status.st_uid not in (ROOT, os.geteuid()):
            found.append(f"{folder} belongs to user {status.st_uid}")
        elif status.st_mode & OTHERS and not status.st_mode & stat.S_ISVTX:
            found.append(f"{folder}: {others_write(status)}")
    return found


def make_requests_dir(run_dir: Path) -> None:
    """Make the folder in which others ask a run to stop or to save: who may write into the run folder may write into it.

    Raises: OSError.
    """
    folder = run_dir / REQUESTS
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            mode, wanted = stat.S_IMODE(os.fstat(descriptor).st_mode), run_dir.stat().st_mode & OTHERS
            if wanted & ~mode:  # a file system that keeps no modes of its own may refuse any change
                os.fchmod(descriptor, mode | wanted)
        finally:
            os.close(descriptor)


def keep_names(folder: Path, *, name: str) -> bool:
    """See to it that nobody else renames or removes what this user makes in a folder that others may write to: the sticky bit.

    Returns: whether it had to be set. Args: name: of the folder in messages.
    Raises: UserError if the folder is another user's, who may do so whatever its bits say; OSError.
    """
    found = folder.stat()
    if found.st_uid not in (os.geteuid(), ROOT):
        raise _not_own(folder, name, f"it belongs to user {found.st_uid}, who may exchange what lies in it")
    if not found.st_mode & OTHERS or found.st_mode & stat.S_ISVTX:
        return False
    try:
        folder.chmod(stat.S_IMODE(found.st_mode) | stat.S_ISVTX)
    except OSError as error:
        raise error_type(error)(
            f"{name} ({folder}) must keep its names, and {others_write(found)}: {error.strerror}; `chmod +t` works"
        ) from None
    return True


def _not_own(folder: Path, name: str, why: str) -> UserError:
    return UserError(
        f"{name} ({folder}) must be a folder of your own, since jobs run what lies in it with your rights, and {why}; look at it, "
        f"move it away, and run again: a new one works"
    )

"""A folder that is this user's alone, at a place that others know: a name in /tmp may have been taken by somebody else before."""

import os
import stat
import tempfile
from pathlib import Path


def private_folder(path: Path) -> tuple[Path, str]:
    """Return ``path`` as a folder that is ours alone, and why it is another, new one where it is.

    What is there already is taken only if it is ours, no link, and nobody else could write to it or to a folder above it.
    Links above it are followed once, here.
    Raises: OSError where no folder can be made.
    """
    above = path.parent.resolve()
    folder = above / path.name
    why = ""
    try:
        above.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        why = _why_not_ours(folder)
    except OSError as error:
        why = f"it cannot be made: {error.strerror}"
    why = why or _why_open(above)
    if not why:
        folder.chmod(0o700)
        return folder, ""
    return Path(tempfile.mkdtemp(prefix=f"{path.name}.")), why


def _why_not_ours(folder: Path) -> str:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "it is no folder"
    if found.st_uid != os.geteuid():
        return "it is another user's"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it"
    return ""


def _why_open(above: Path) -> str:
    """Return why others could put a folder of theirs in the place of one of ours; empty if they cannot."""
    for folder in (above, *above.parents):
        found = folder.stat()
        if found.st_uid not in (0, os.geteuid()):
            return f"{folder} is another user's"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            return f"others may write to {folder}"
    return ""

"""A folder that is this user's alone, at a place that others know: a name in /tmp may have been taken by somebody else before."""

import os
import stat
import tempfile
from pathlib import Path

from fanal.ownership import open_parents, others_write


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
    why = why or "; ".join(open_parents(folder))
    if not why:
        folder.chmod(0o700)
        return folder, ""
    return Path(tempfile.mkdtemp(prefix=f"{path.name}.")), why


def _why_not_ours(folder: Path) -> str:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return "it is no folder"
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}"
    return others_write(found)

"""A path that a user gave and that leads nowhere: why, and what is there instead."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

SHOWN = 3
LOOKED_AT = 10_000
"""Most names of a folder that are compared; one of a million files is not listed for a message."""


def what_is_there(path: Path, *, suitable: Callable[[Path], bool] = lambda _: True) -> str:
    """Say, as the end of a sentence that begins with the path, why it is no file or folder, and what to name instead.

    Args: suitable tells what could stand in its place.
    """
    if path.is_symlink():
        target = path.readlink()
        return f"is a link to {target}, which leads to no file; bring back {target}, or make the link anew"
    if path.exists():
        return "is neither a file nor a folder; write what it gives to a file, and name that"
    folder = path.absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    missing = path.absolute().relative_to(folder).parts[0]
    names = _names(folder, suitable)
    near = difflib.get_close_matches(missing, names, n=1, cutoff=0.75)
    if near and folder / missing == path.absolute():
        return f"does not exist; did you mean {path.with_name(near[0])}?"
    shown = f"holds {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"does not exist: {folder} is there, has no {missing}, and {shown if names else 'holds nothing that fits'}"


def _names(folder: Path, suitable: Callable[[Path], bool]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry, _ in zip(entries, range(LOOKED_AT), strict=False)]
        return sorted(name for name in found if not name.startswith(".") and suitable(folder / name))
    except OSError:
        return []

"""Rules for the target of an export or an import: it is not inside a checkpoint, and is not named like one."""

import os
from pathlib import Path

from fanal.run_folder import COMPLETE, checkpoints_dir, is_bad, is_part, step_of
from pretrain.checkpoint.disk.verify import real_path

CHECKPOINTS = checkpoints_dir("").name


def named(to: str | Path) -> Path:
    """Return the target as a path with a name that ``.part`` can follow; "." and ".." have none."""
    path = Path(to)
    return path if path.name not in ("", "..") else path.resolve()


def harm_of(target: Path, *, may_be_step_0: bool = False) -> str | None:
    """Return the rule that a target breaks and a target that works, as the end of a message; None if it breaks none.

    Args: may_be_step_0: whether a complete checkpoint of step 0 is written, so that its name may be that of one.
    """
    parent = real_path(target.absolute().parent)
    for folder in (parent, *parent.parents):
        if _counts(folder.name) or os.path.lexists(folder / COMPLETE):
            return (
                f"must be outside of checkpoints, which hold only what their manifest names, and {folder} is one; "
                f"{_run_of(folder) / _plain(target.name)} works"
            )
    is_step_0 = may_be_step_0 and step_of(target.name) == 0 and parent.name != CHECKPOINTS
    if _counts(target.name) and not is_step_0:
        works = _run_of(parent / target.name) / "converted"
        return f"must not be named like a run's checkpoint, because it would count as one; {works} works"
    return None


def _counts(name: str) -> bool:
    """Return whether a run takes a folder of this name for a checkpoint, one being written, or one that was set aside."""
    return step_of(name) is not None or is_part(name) or is_bad(name)


def _run_of(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to, or the folder it is in."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def _plain(name: str) -> str:
    return "converted" if _counts(name) else name

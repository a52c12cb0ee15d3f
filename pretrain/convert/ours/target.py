"""Where an export or an import may be written: not among the files of a checkpoint, nor under a name that counts as one."""

import os
from pathlib import Path

from fanal.run_folder import COMPLETE, checkpoints_dir, is_bad, is_part, step_of
from pretrain.checkpoint.disk.verify import real_path

CHECKPOINTS = checkpoints_dir("").name


def named(to: str | Path) -> Path:
    """The target as a path with a name to put ``.part`` behind; "." and ".." have none."""
    path = Path(to)
    return path if path.name not in ("", "..") else path.resolve()


def harm_of(target: Path, *, may_be_step_0: bool = False) -> str | None:
    """The rule that a target breaks and one that does not, to follow the target in a message; None if it breaks none.

    Args: may_be_step_0: what is written is a whole checkpoint of step 0, so that its name may say so.
    """
    parent = real_path(target.absolute().parent)
    for folder in (parent, *parent.parents):
        if _counts(folder.name) or os.path.lexists(folder / COMPLETE):
            return (
                f"must lie outside of checkpoints, which hold what their manifest names and nothing else, and {folder} is one; "
                f"{_run_of(folder) / _plain(target.name)} works"
            )
    is_step_0 = may_be_step_0 and step_of(target.name) == 0 and parent.name != CHECKPOINTS
    if _counts(target.name) and not is_step_0:
        works = _run_of(parent / target.name) / "converted"
        return f"must not be named as a run names its checkpoints, or it counts as one; {works} works"
    return None


def _counts(name: str) -> bool:
    """Whether a run takes a folder of this name for a checkpoint, for one being written or for one that was set aside."""
    return step_of(name) is not None or is_part(name) or is_bad(name)


def _run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint is of, or the one it lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def _plain(name: str) -> str:
    return "converted" if _counts(name) else name

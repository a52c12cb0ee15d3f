"""The folder of a run's jobs, or an encoding's: its owner's alone, since jobs run what lies in it; one command's at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fanal.errors import UserError
from fanal.locks import take_lock
from fanal.new_files import open_to_lock
from fanal.ownership import close_new_files, make_own_folder, why_not_own

LAUNCH_LOCK = "launch.lock"
"""File that a command holds locked while it writes scripts or queues jobs: two of them would queue two chains."""


@contextlib.contextmanager
def hold_launch_folder(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other commands out of it while the block runs. Others may write to nothing that is made meanwhile.

    Raises: UserError if another command has it, or if the folder is not this user's; OSError.
    """
    make_own_folder(folder, name="the launch folder")
    before = close_new_files()
    try:
        with open_to_lock(folder / LAUNCH_LOCK) as stream:
            if not take_lock(stream.fileno()):
                raise UserError(
                    f"{folder} must have one `fanal launch` at a time write scripts and queue jobs, and another one does; wait "
                    "for it, then look at what it has queued: `squeue --me` works"
                )
            yield
    finally:
        os.umask(before)


def own_script(folder: Path, name: str) -> Path:
    """Return a script in the folder, if it is safe to queue.

    Raises: UserError if others may have changed it.
    """
    path = folder / name
    for one in (folder, path):
        if why := why_not_own(one):
            raise UserError(
                f"{one} must be what this user wrote there, to be queued again, and {why}; `fanal launch` writes it anew"
            )
    return path

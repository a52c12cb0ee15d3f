"""Free space for the checkpoints of a run, in bytes and in files (inodes)."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fanal.errors import UserError
from fanal.files import sync
from fanal.free_space import Free, nearest_folder
from fanal.run_folder import cannot_write
from launch.sites.reach import file_systems_of
from launch.sites.schema import SiteConfig
from pretrain.config.schema import RunConfig
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.registry import num_states
from pretrain.plan.retention import checkpoint_inodes, most_at_once, room_for, what_fits

QUOTA_LIMIT_S = 60
"""Time limit of a site's quota_command, in seconds: some ask every file system there is."""


def check_space(
    run: RunConfig, *, num_ranks: int, free: Free, there: Sequence[int], run_dir: Path, in_job: bool = False
) -> str:
    """Check that the run's checkpoints have room; returns what they need, in words.

    Args: there, steps of the checkpoints that are in the run folder already. In a job, as long as the next checkpoint fits, a
        lack of room for later ones is a warning: it may be months until then, and a run that trains is not to be stopped for it.
    Raises: UserError naming the sizes, and a checkpoint.keep_last that fits.
    """
    size = checkpoint_bytes(run.model, num_states=num_states(run.optim))
    files, while_written = checkpoint_inodes(run, num_ranks=num_ranks)
    most = most_at_once(run, there)
    more = most - len(there)
    fits = room_for(free, size=size, files=files, notes=while_written - files)
    needs = f"{more} more checkpoints of {gb(size)} and {files:,} files each, {gb(more * size)} and {more * files:,} files in all"
    has = f"{gb(free.num_bytes)} and {'uncounted' if free.num_files is None else f'{free.num_files:,}'} files are free"
    if more <= fits:
        return f"{needs}; {has}"
    lack = (
        f"run_dir ({run_dir}) must have room for {needs} (checkpoint.interval={_null(run.checkpoint.interval)}, "
        f"keep_last={_null(run.checkpoint.keep_last)}, keep_every_steps={_null(run.checkpoint.keep_every_steps)}), "
        f"and {has}; {what_fits(run, there, fits)}"
    )
    if in_job and fits:
        return f"warning: {lack}"
    raise UserError(lack)


def check_write(run_dir: Path) -> str:
    """Write a few bytes into a folder, or into the nearest one above it that exists; nothing stays.

    Raises: UserError if that fails.
    """
    folder = nearest_folder(run_dir)
    nearest = next((path for path in (run_dir, *run_dir.parents) if os.path.lexists(path)), folder)
    if nearest != folder:
        raise cannot_write(run_dir, f"{nearest} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"fanal")
            sync(stream)
    except OSError as error:
        raise cannot_write(run_dir, f"{error.strerror} ({folder})", error) from None
    return f"{folder} can be written to" + ("" if folder == run_dir else f"; {run_dir} will be made")


def quota(run_dir: Path, site: SiteConfig) -> str:
    """Return what the site's command prints about the file system of ``run_dir``, unchanged; empty if there is no command.

    Its form is not known, so nothing is concluded from it.
    """
    lies_on = file_systems_of(run_dir, site)
    if not lies_on or not lies_on[-1][1].quota_command:
        return ""
    file_system = lies_on[-1][1]  # where its links end
    command = shlex.split(file_system.quota_command)
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not on this machine"
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=QUOTA_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"{file_system.quota_command}: no answer in {QUOTA_LIMIT_S} s"
    except OSError as error:
        return f"{file_system.quota_command}: {error.strerror}"
    return f"{file_system.quota_command} says\n{(done.stdout + done.stderr).rstrip()}"


def gb(num_bytes: int) -> str:
    """Return a size for people."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"


def _null(value: int | None) -> str:
    return "null" if value is None else str(value)

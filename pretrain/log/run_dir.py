"""The run folder: there, and writable, before any rank starts to write; and held by one run at a time."""

import contextlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fanal.errors import UserError, user_path
from fanal.locks import take_lock
from fanal.new_files import open_to_lock
from fanal.ownership import ROOT, keep_names, make_requests_dir
from fanal.run_folder import (
    ENERGY_DIR,
    LOCK,
    LOGS_DIR,
    MLFLOW_DIR,
    PROFILE_DIR,
    STARTS_DIR,
    TENSORBOARD_DIR,
    WANDB_DIR,
    cannot_write,
    checkpoints_dir,
)

logger = logging.getLogger(__name__)

LOCK_WAIT_S = 5.0
"""Seconds to wait for a run that is just ending: one that was killed holds the lock until its process is gone."""
LOCK_WAIT_IN_A_JOB_S = 180.0
"""Seconds to wait where Slurm started the run, perhaps because a node went down: until the servers of a network file system give a
client up, it holds its locks. Not to get one is wrong input, with which a chain of jobs ends."""


def open_run_dir(run_dir: str | Path) -> Path:
    """Make the run folder if it is not there. Every rank may call it.

    Raises: UserError if it cannot be made or written to, or has something else where its checkpoints belong.
    """
    folder = Path(run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(run_dir, str(error.strerror), error) from None
    with user_path(folder):
        _keep_names(folder)
        _check_links(folder)
        _check_checkpoints(folder)
    return folder


def _keep_names(folder: Path) -> None:
    """See to it that nobody exchanges the folders of a run of ours for links while it writes there."""
    if folder.stat().st_uid == os.geteuid() and keep_names(folder, name="run_dir"):
        logger.warning("%s got the sticky bit (chmod +t): others may write there, and rename nothing of yours", folder)


def _check_links(folder: Path) -> None:
    """Refuse a folder of the run that is a link which another user made: files would be written, and deleted, where he wants."""
    names = (LOGS_DIR, TENSORBOARD_DIR, WANDB_DIR, MLFLOW_DIR, PROFILE_DIR, STARTS_DIR, ENERGY_DIR)
    for own in (checkpoints_dir(folder), *(folder / name for name in names)):
        if own.is_symlink() and own.lstat().st_uid not in (ROOT, os.geteuid()):
            raise UserError(
                f"run_dir ({folder}) must hold no folder of another user's making, and {own} is a link to {own.readlink()}, made "
                f"by user {own.lstat().st_uid}; `rm {own}` works, and a link that you make is followed"
            )


def _check_checkpoints(folder: Path) -> None:
    """Refuse a broken link in the place of the checkpoints: the run would start over, and fail at its first save; and a folder
    that neither this user nor the owner of the run has made, who would exchange them at will."""
    own = checkpoints_dir(folder)
    is_folder = own.is_dir() and not own.is_symlink()
    if is_folder and (maker := own.stat().st_uid) not in (ROOT, os.geteuid(), folder.stat().st_uid):
        raise UserError(
            f"run_dir ({folder}) must have its checkpoints in a folder of yours, and {own} belongs to user {maker}, who may "
            f"exchange what lies in it; `mv {own} {own}-{maker}` works: a new one is made"
        )
    if os.path.lexists(own) and not own.is_dir():
        what = f"a link to {own.readlink()}, which is not a folder" if own.is_symlink() else "not a folder"
        raise UserError(
            f"run_dir ({folder}) must have its checkpoints in a folder, and {own} is {what}; make that folder reachable to resume "
            f"from its checkpoints, or `rm {own}` to start a new run"
        )


@contextlib.contextmanager
def hold_run_dir(run_dir: str | Path, *, rank: int) -> Iterator[None]:
    """Keep other runs out of the run folder while the block runs. Rank 0 holds the lock, and makes the folder of requests; no
    collective.

    The lock ends with the process, however it ends. Where the file system has no locks, a warning says so and the run goes on.
    Raises: UserError on rank 0 if another run holds the folder.
    """
    if rank != 0:
        yield
        return
    try:
        make_requests_dir(Path(run_dir))
        stream = open_to_lock(Path(run_dir) / LOCK)
    except OSError as error:
        raise cannot_write(run_dir, f"{Path(error.filename or LOCK).name}: {error.strerror}", error) from None
    with stream:
        if _lock(stream.fileno()):
            with contextlib.suppress(OSError):  # a full disk: the name is a courtesy, the lock needs no room
                os.ftruncate(stream.fileno(), 0)
                os.write(stream.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield
            return
        stream.seek(0)
        holder = stream.read(200).decode(errors="replace").strip() or "another process"
    raise UserError(
        f"run_dir ({run_dir}) must belong to one run at a time, and {holder} holds {Path(run_dir) / LOCK}; stop that run, or "
        f"run_dir={run_dir}-2 works"
    )


def _lock(descriptor: int) -> bool:
    """Take the lock; return whether nobody else holds it, as far as the file system can tell."""
    wait_s = LOCK_WAIT_IN_A_JOB_S if "SLURM_JOB_ID" in os.environ else LOCK_WAIT_S
    give_up_at, said = time.monotonic() + wait_s, False
    while not take_lock(descriptor, without=_warn_of_no_locks):
        if time.monotonic() > give_up_at:
            return False
        if not said:
            said = True
            logger.warning("another process holds the lock of the run folder; waiting for it, %g s at most", wait_s)
        time.sleep(0.1)
    return True


def _warn_of_no_locks(error: OSError) -> None:
    logger.warning(
        "the file system has no locks (%s): a second run in this folder would not be refused", error.strerror
    )

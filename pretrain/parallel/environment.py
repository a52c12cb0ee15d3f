"""The rank of this process, as torchrun, srun or our own launcher states it. Imports nothing heavy."""

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path

from fanal.errors import PassingError, UserError
from fanal.host_cores import cores_of_node, host_cores
from fanal.new_files import write_new

STARTED_AT = "PRETRAIN_STARTED_AT_S"
"""Environment variable: when the command was started, on this machine's monotonic clock. Local ranks inherit it."""

EXIT_CODES = "PRETRAIN_EXIT_CODES"
"""Environment variable: a folder in which every rank leaves its exit code, for launchers whose own code says nothing: torchrun
answers 1 whatever its ranks answered. A rank that was killed leaves none."""
SCONTROL_LIMIT_S = 60.0
"""Seconds for an answer that needs no controller, on a node that may be busy."""


def note_start() -> None:
    """Remember this moment as the start of the command."""
    os.environ[STARTED_AT] = str(time.monotonic())


def started_at() -> float:
    """Return when the command was started, on the clock of ``time.monotonic``; now if nobody has noted it."""
    return float(os.environ.get(STARTED_AT) or time.monotonic())


def note_exit_code(code: int) -> None:
    """Leave this rank's exit code in the folder that EXIT_CODES names, if it names one. Last act of a rank; never raises."""
    folder = os.environ.get(EXIT_CODES)
    if folder:
        with contextlib.suppress(OSError, ValueError):
            rank, _, _ = rank_and_size()
            write_new(Path(folder) / f"rank-{rank:05d}", f"{code}\n")


def started_by_launcher() -> bool:
    """Return whether torchrun, srun or our own launcher gave this process a rank."""
    return ("RANK" in os.environ and "WORLD_SIZE" in os.environ) or (
        "SLURM_PROCID" in os.environ and _slurm_tasks() > 1
    )


def rank_and_size() -> tuple[int, int, int]:
    """Return (rank, world size, local rank) from torchrun's or Slurm's environment. Raises: UserError if they are not numbers."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK", "0")
    if started_by_launcher():
        return _number("SLURM_PROCID"), _slurm_tasks(), _number("SLURM_LOCALID", "0")
    return 0, 1, 0


def _number(name: str, default: str | None = None) -> int:
    """Return the whole number in a variable of the launcher. Raises: UserError."""
    value = os.environ.get(name, default) or ""
    if not value.isascii() or not value.isdigit():
        raise UserError(
            f"{name} ({value!r}) must be a whole number, as torchrun sets it; `unset {name}` works outside of it"
        )
    return int(value)


def cores_of_rank() -> int:
    """Return the cores for this process's share of the node's work: those that it may use, divided among the node's ranks unless
    it was bound to some of them."""
    cores = host_cores()
    return cores if cores < cores_of_node() else max(1, cores // _ranks_on_node())


def least_ranks_on_node() -> int:
    """Return the number of ranks that are surely on this node: those that torchrun states, else this one. Raises: UserError."""
    return max(1, _number("LOCAL_WORLD_SIZE", "1"))


def _ranks_on_node() -> int:
    """Return the number of ranks on this node: torchrun states it, our launcher uses one node, Slurm writes ``4(x2),3``."""
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE"):
        if match := re.match("[0-9]+", os.environ.get(name, "")):
            return max(1, int(match.group()))
    return 1


def _slurm_tasks() -> int:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def name_first_host() -> None:
    """Tell PyTorch where to meet under a bare srun: the first host of the step, on a port that follows from the job.

    torchrun and our launcher have set both already.
    Raises: UserError if a world of several ranks has no meeting place.
    """
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return
    hosts = os.environ.get("SLURM_STEP_NODELIST")
    if hosts is None:
        raise UserError(
            f"MASTER_ADDR ({os.environ.get('MASTER_ADDR')}) and MASTER_PORT ({os.environ.get('MASTER_PORT')}) must say where ranks "
            "meet; start with torchrun or with srun, or `unset RANK WORLD_SIZE` for local ranks"
        )
    os.environ.setdefault("MASTER_ADDR", _first_of(hosts))
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 10_000))


def _first_of(hosts: str) -> str:
    """Return the first name of a list as Slurm writes it, such as node[07-12]."""
    ask = ["scontrol", "show", "hostnames", hosts]
    try:
        listed = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=SCONTROL_LIMIT_S)
        return listed.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise PassingError(
            f"`{' '.join(ask)}` must name the first host of the step ({error}); `export MASTER_ADDR=HOST MASTER_PORT=29500` in the "
            "job's script works without it"
        ) from None

"""Names inside a run folder: of the trainer, of its jobs, of its checkpoints. Pure: nothing is opened here."""

import re
from pathlib import Path

from fanal.errors import UserError

METRICS_FILE = "metrics.jsonl"
"""Every record of the run, one JSON object a line."""
SPIKES_FILE = "spikes.jsonl"
"""The steps that went wrong, with the place of each of their samples."""
JOBS_FILE = "jobs.jsonl"
"""What was submitted, started and decided on a cluster."""
TENSORBOARD_DIR = "tensorboard"
LOGS_DIR = "logs"
"""What each rank said; also in the folder of a job's start."""
LAUNCH_DIR = "launch"
"""Scripts of the run's jobs, and a folder for each of their starts."""
LOCK = "lock"
"""File that rank 0 of the run holds locked; its text says who that is or was."""
STOP, SAVE = "STOP", "SAVE"
"""Files by which a colleague asks a run to stop, or to save a checkpoint."""
REQUESTS_SINCE_S = "PRETRAIN_REQUESTS_SINCE_S"
"""Variable of a job: when it began, in seconds since the epoch. Request files that are older were meant for an earlier start."""

COMPLETE = "COMPLETE"
"""Written last: the hash of the manifest. A step folder without it is not whole."""
MANIFEST = "manifest.json"
"""Every other file with its size and hash (manifest.py)."""
STATE = "state.json"
DATA = "data.json"
"""Where the run stood in its data (pretrain/data/position.py)."""
CONFIG = "config.yaml"
ORIGIN = "origin.json"
"""With which checkpoint of another run this one began (origin.py); only where it did."""
TENSORS = "tensors.json"
"""Every tensor of model and optimizer, and which file holds which part of it (tensor_index.py)."""
SHARDS = "shards"
"""Subfolder of those files."""
MAX_FILES = 16
"""That a rank aims at: a thread each hashes them at a load, and shared file systems do not like many files."""
MIN_FILE_BYTES = 64 << 20
"""Where a file is cut at the earliest: many small ones would cost more to open and sync than threads win."""
ENTRIES = "entries"
"""Subfolder that is there while a checkpoint is being written: what each rank's writer says of its file."""
REASON = "REASON"
"""Beside a folder that was set aside, ``step-N.bad.REASON``: what was wrong with it."""

_STEP = re.compile(r"step-([0-9]{8,})")
_PART = re.compile(r"step-[0-9]{8,}\.part")
_SHARD = re.compile(SHARDS + r"/rank-([0-9]{5,})\.safetensors")
_BAD = re.compile(r"step-[0-9]{8,}\.bad(-[0-9]+)?")


def cannot_write(run_dir: str | Path, why: str) -> UserError:
    """Return the error for a run folder that cannot be made or written to."""
    return UserError(
        f"run_dir ({run_dir}) must be a folder that can be made and written to: {why}; "
        f"run_dir=runs/{Path(run_dir).name or 'mine'} works where the current folder is writable"
    )


def checkpoints_dir(run_dir: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(run_dir) / "checkpoints"


def step_name(step: int) -> str:
    """Folder of the checkpoint taken after ``step`` optimizer steps."""
    return f"step-{step:08d}"


def part_name(step: int) -> str:
    """Its name while it is being written, and while it is being deleted."""
    return step_name(step) + ".part"


def bad_name(step: int, count: int) -> str:
    """Its name once it was found damaged; ``count`` folders of this step were set aside before."""
    return step_name(step) + ".bad" + (f"-{count + 1}" if count else "")


def step_of(name: str) -> int | None:
    """The step in a checkpoint folder's name; None for any other name, ``.part`` and ``.bad`` included."""
    match = _STEP.fullmatch(name)
    step = int(match.group(1)) if match else None
    return step if step is not None and step_name(step) == name else None


def is_part(name: str) -> bool:
    """Whether this is the name of a folder that is being written or deleted."""
    return _PART.fullmatch(name) is not None


def is_bad(name: str) -> bool:
    """Whether this is the name of a folder that was set aside."""
    return _BAD.fullmatch(name) is not None


def shard_path(number: int) -> str:
    """A file of tensors, from the checkpoint's folder on. Rank r of n writes those with the numbers r, r + n, r + 2n ..."""
    return f"{SHARDS}/rank-{number:05d}.safetensors"


def shard_number(path: str) -> int | None:
    """The inverse; None for any other path."""
    match = _SHARD.fullmatch(path)
    return int(match.group(1)) if match else None

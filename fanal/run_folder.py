"""Names inside a run folder: of the trainer, of its jobs, of its checkpoints. Nothing is opened here."""

import re
from pathlib import Path

from fanal.errors import FanalError, UserError, error_type

METRICS_FILE = "metrics.jsonl"
"""Every record of the run, one JSON object a line."""
SPIKES_FILE = "spikes.jsonl"
"""The steps that went wrong, with the place of each of their samples."""
JOB = "job.json"
"""File in LAUNCH_DIR: what the jobs themselves must know and cannot read in the config or the site."""
JOBS_FILE = "jobs.jsonl"
"""Jobs of the run on a cluster: submitted, started, decided. In LAUNCH_DIR; up to version 0.1 in the run folder itself."""
STARTS_DIR = "starts"
"""A file for each start of the run: where it went on from, with what, on what (pretrain/log/start_file.py)."""
ENERGY_DIR = "energy"
"""A file for each node and start: what its energy counters rose by (pretrain/log/energy_file.py)."""
EVALUATIONS_DIR = "evaluations"
"""A file for each evaluation of a checkpoint: what was asked, with what, and its figures (pretrain/log/evaluation_file.py)."""
EVALUATIONS_FILE = "evaluations.jsonl"
"""The figures of each evaluation, a line each. Not in METRICS_FILE: a run that trains is the only one to write there."""
REPORT_FILE = "report.html"
"""The report of the run, where nobody named another place."""
TENSORBOARD_DIR = "tensorboard"
WANDB_DIR = "wandb"
"""Runs of Weights & Biases that are not yet sent, where log.sinks names it."""
MLFLOW_DIR = "mlflow"
PACKING_DIR = "packing"
"""Plans of which documents each row holds, where data.packing is best_fit."""
PROFILE_DIR = "profile"
"""Traces of steps, by torch's profiler."""
LOGS_DIR = "logs"
"""Output of each rank; also in the folder of a job's start."""
COLLECTIVES_FILE = "collectives-rank-{:05d}.json"
"""File in LOGS_DIR, of each rank that its watchdog ended: what its collectives came to."""
LAUNCH_DIR = "launch"
"""Scripts of the run's jobs, and a folder for each of their starts. Nobody but the run's owner writes in it."""
LOCK = "lock"
"""File that rank 0 of the run holds locked; its text says who that is or was."""
REQUESTS = "requests"
"""Folder for the files by which others ask something of a run. It may be open to all who may: nothing in it is read, or run."""
STOP, SAVE, DECAY = "STOP", "SAVE", "DECAY"
"""Files by which a colleague asks a run to stop, to save a checkpoint, or to begin the final decay of its learning rate: in
REQUESTS, or in the run folder itself."""
REQUESTS_SINCE_S = "PRETRAIN_REQUESTS_SINCE_S"
"""Variable of a job: when it began, in seconds since the epoch. Request files that are older were meant for an earlier start."""
UNTIL_STEP = "PRETRAIN_UNTIL_STEP"
"""Variable of a job: the step after which its run stops, with a checkpoint, before its last one."""

COMPLETE = "COMPLETE"
"""Marker of a complete step folder, written last: the hash of the manifest."""
MANIFEST = "manifest.json"
"""File with the size and hash of every other file (manifest.py)."""
STATE = "state.json"
DATA = "data.json"
"""File that says where the run stood in its data (pretrain/data/position.py)."""
IMPORTED_FILES = "imported"
"""Subfolder of an imported checkpoint: the small files of the Hugging Face folder that it was made from."""
CONFIG = "config.yaml"
ORIGIN = "origin.json"
"""File that names the checkpoint of another run from which this one started (origin.py); only where it did."""
AVERAGE = "average.json"
"""File that names the checkpoints that this one is the mean of (average_file.py); only in an average."""
TENSORS = "tensors.json"
"""File that lists every tensor of model and optimizer, and which file holds which part of it (tensor_index.py)."""
SHARDS = "shards"
"""Subfolder of those files."""
ENTRIES = "entries"
"""Subfolder that exists while a checkpoint is being written: what each rank's writer says of its file."""
REASON = "REASON"
"""File beside a folder that was set aside, ``step-N.bad.REASON``: what was wrong with it."""

_START = re.compile(r"start-([0-9]{5,})\.json")
_EVALUATION = re.compile(r"evaluation-([0-9]{5,})\.json")
_STEP = re.compile(r"step-([0-9]{8,})")
_PART = re.compile(r"step-[0-9]{8,}\.part")
_SHARD = re.compile(SHARDS + r"/rank-([0-9]{5,})\.safetensors")
_BAD = re.compile(r"step-[0-9]{8,}\.bad(-[0-9]+)?")


def was_written_resolved(config: Path) -> bool:
    """Whether a YAML file is one that a checkpoint or a job keeps, by what is beside it: every value is filled in there."""
    return any(config.with_name(name).exists() for name in (COMPLETE, JOB))


def cannot_write(run_dir: str | Path, why: str, error: OSError | None = None) -> FanalError:
    """Return the error for a run folder that cannot be made or written to. Args: error: of the system, if it was asked."""
    kind = UserError if error is None else error_type(error)
    return kind(
        f"run_dir ({run_dir}) must be a folder that can be made and written to: {why}; "
        f"run_dir=runs/{Path(run_dir).name or 'mine'} works where the current folder is writable"
    )


def checkpoints_dir(run_dir: str | Path) -> Path:
    """Return the folder in which a run keeps its checkpoints."""
    return Path(run_dir) / "checkpoints"


def rank_log(run_dir: str | Path, rank: int) -> Path:
    """Return the file that keeps what a rank says and how it failed."""
    return Path(run_dir) / LOGS_DIR / f"rank-{rank:05d}.log"


def step_name(step: int) -> str:
    """Return the folder name of the checkpoint taken after ``step`` optimizer steps."""
    return f"step-{step:08d}"


def part_name(step: int) -> str:
    """Return the name of a checkpoint folder while it is being written, and while it is being deleted."""
    return step_name(step) + ".part"


def bad_name(step: int, count: int) -> str:
    """Return the name of a checkpoint folder once it was found damaged; ``count`` folders of this step were set aside
    before."""
    return step_name(step) + ".bad" + (f"-{count + 1}" if count else "")


def step_of(name: str) -> int | None:
    """Return the step in a checkpoint folder's name; None for any other name, ``.part`` and ``.bad`` included."""
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
    """Return the path of a file of tensors, from the checkpoint's folder on. Rank r of n writes those with the numbers
    r, r + n, r + 2n ..."""
    return f"{SHARDS}/rank-{number:05d}.safetensors"


def shard_number(path: str) -> int | None:
    """Return the number of a file of tensors; None for any other path."""
    match = _SHARD.fullmatch(path)
    return int(match.group(1)) if match else None


def start_name(number: int) -> str:
    """Return the name of a start's file in STARTS_DIR. Args: number: from 1."""
    return f"start-{number:05d}.json"


def energy_name(start: int, rank: int | None = None) -> str:
    """Return the name of the file in ENERGY_DIR that a rank writes for its node; without a rank, the pattern of a start's."""
    return f"start-{start:05d}-rank-{'*' if rank is None else f'{rank:05d}'}.json"


def start_number(name: str) -> int | None:
    """Return the number of the start whose file has this name; None for any other name."""
    match = _START.fullmatch(name)
    number = int(match.group(1)) if match else None
    return number if number is not None and start_name(number) == name else None


def evaluation_name(number: int) -> str:
    """Return the name of an evaluation's file in EVALUATIONS_DIR. Args: number: from 1."""
    return f"evaluation-{number:05d}.json"


def evaluation_number(name: str) -> int | None:
    """Return the number of the evaluation whose file has this name; None for any other name."""
    match = _EVALUATION.fullmatch(name)
    number = int(match.group(1)) if match else None
    return number if number is not None and evaluation_name(number) == name else None

"""``RUN_DIR/starts/start-00001.json``: a start of a run. Where it went on from, with which configuration, on which machines, with
which code, and on which shards.

Rank 0 writes one file for each start, whole or not at all, before the first step. With the files of all starts the samples of every
step follow from arithmetic, as does which steps were lost: those of a start behind the step from which the next one goes on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import user_path
from fanal.files import write_bytes_durably
from fanal.records import numbers_in, read_numbered, record_bytes, sealed
from fanal.run_folder import STARTS_DIR, start_name, start_number
from fanal.run_progress import newest_metrics

OWN_HASH = "start_sha256"


@dataclass(frozen=True, kw_only=True)
class Code:
    """The code of Fanal that a start ran."""

    version: str
    commit: str | None
    """Commit of the git checkout that it ran from; None where it is installed, or where that cannot be read."""
    modified: bool | None
    """Whether a file of it differs from that commit; None where git does not say."""


@dataclass(frozen=True, kw_only=True)
class StartSource:
    """A shard that a start reads."""

    prefix: str
    """Path as in the configuration."""
    identity: str
    """Identity of its tokens (``pretrain.data.sources.shard_identity``), whatever its path."""
    num_tokens: int
    train_tokens: int
    """The first tokens, which training may read; 0 of a shard of data.validation."""
    domain: str
    idx_sha256: str | None
    """Hash of its index, which says where its documents lie."""
    documents_sha256: str | None
    """Hash of the file that names its documents; None if it has none."""


@dataclass(frozen=True, kw_only=True)
class StartFile:
    """Content of a start's file."""

    number: int
    """Number of the start, from 1; records of metrics.jsonl and spikes.jsonl have it as ``start``."""
    time_unix_s: float
    """Wall clock when it was ready to train."""
    startup_s: float
    """Seconds from the command's start to that moment, on a clock that never goes back."""
    step: int
    """Step after which it goes on; 0 for a new run."""
    consumed_samples: int
    """Samples that the steps up to there used."""
    decay_start_sample: int | None
    """First sample of the final decay of the learning rate, if it had begun on request or at a stated sample."""
    config: dict[str, Any]
    """The resolved configuration, as a checkpoint keeps it in config.yaml."""
    code: Code
    versions: dict[str, str]
    """Versions of python, torch and megatron-core."""
    hosts: tuple[str, ...]
    """Names of the nodes, in the order of ranks."""
    num_ranks: int
    devices: dict[str, int]
    """Number of ranks on each kind of device, by its name."""
    device_type: str
    """``cuda`` or ``cpu``."""
    user: str
    """Name of the user on the host of rank 0."""
    job: str | None
    """Slurm's id of the job; None outside of one."""
    sources: tuple[StartSource, ...]
    """Training sources, in the order in which the configuration mentions them first."""
    validation_sources: tuple[StartSource, ...]
    """Shards of data.validation."""
    origin: dict[str, Any] | None
    """The checkpoint of another run that this one started from, as in origin.json."""
    changes: tuple[str, ...]
    """What differs from the configuration of the start before, such as ``train.global_batch_size: 8 -> 16``."""
    start_sha256: str | None = None
    """SHA-256 of everything else in this file (``own_hash``)."""


def write_start_file(run_dir: str | Path, start: StartFile) -> Path:
    """Write a start's file, durably, and return its path. Raises: PassingError or UserError if the disk does not take it."""
    folder = Path(run_dir) / STARTS_DIR
    with user_path(folder):
        folder.mkdir(exist_ok=True)
    path = folder / start_name(start.number)
    write_bytes_durably(path, record_bytes(sealed(start, OWN_HASH)))
    return path


def start_numbers(run_dir: str | Path) -> list[int]:
    """Return the numbers of the starts that have a file, rising; none in the folder of an older run. Raises: OSError."""
    return numbers_in(Path(run_dir) / STARTS_DIR, start_number)


def next_start(run_dir: str | Path) -> int:
    """Return the number of a start that begins now: behind those that have a file, and that of the newest line of the log, whose
    file a full disk may not have taken."""
    logged = next(newest_metrics(Path(run_dir)), {}).get("start")
    return 1 + max([logged if type(logged) is int else 0, *start_numbers(run_dir)])


def read_start(run_dir: str | Path, number: int) -> StartFile:
    """Read the file of one start.

    Raises: DamageError if it is not what was written; UserError if another version of Fanal wrote it.
    """
    path = Path(run_dir) / STARTS_DIR / start_name(number)
    remedy = "copy it again from an intact copy of the run folder, or move it away: the run trains on without it"
    return read_numbered(StartFile, path, number, OWN_HASH, remedy=remedy)


def read_starts(run_dir: str | Path) -> list[StartFile]:
    """Read all starts of a run, by their numbers; none in the folder of an older run.

    Raises: as ``read_start``; OSError if the folder cannot be read.
    """
    return [read_start(run_dir, number) for number in start_numbers(run_dir)]

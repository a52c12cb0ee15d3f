"""The work of the writer processes of all ranks for one checkpoint. They meet in the folder, not in collectives: none of them
can make training wait, and a rank that is gone costs the others a deadline. Imports neither torch nor numpy.

Rank 0's leads: it checks the space, makes ``step-N.part`` with an empty subfolder of this attempt's name, and waits there for
one entry per rank, written when the rank's file is on the disk; then it seals the folder and gives it its final name.
"""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from fanal.checkpoint_files import inodes_while_written
from fanal.files import write_whole
from fanal.free_space import free_at, shortage
from fanal.hashing import FAST, hash_text, new_hash
from fanal.new_files import write_new
from fanal.run_folder import ENTRIES, REASON, SHARDS, part_name, shard_path, step_name
from pretrain.checkpoint.disk.direct import write_through
from pretrain.checkpoint.disk.manifest import FileEntry, describe, entries_from_text, entries_to_text
from pretrain.checkpoint.disk.retention import Keep, drop_old, remove_leftovers, set_aside
from pretrain.checkpoint.disk.sealing import SaveError, seal
from pretrain.checkpoint.disk.verify import verify_checkpoint
from pretrain.parallel.environment import cores_of_rank

LOOK_AGAIN_S = 0.01
"""Seconds between a writer's looks at how far another one has come, at first; they grow to one second."""
DELETING = "deleting old checkpoints"
"""The stage that begins when the checkpoint is complete; a failure in it does not cost the checkpoint."""
MAX_THREADS = 4
"""Limit of the files that a rank writes at once: the cores that compute their hashes are taken from the training."""


@dataclass(frozen=True, kw_only=True)
class LeaderJob:
    """The job of rank 0's writer besides its own files."""

    texts: dict[str, str]
    """Contents of the small files by their names."""
    num_bytes: int
    """Bytes of the files of all ranks."""
    keep: Keep


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """One file of a rank."""

    number: int
    """Number of the file among those of all ranks (run_folder.py)."""
    header: str
    """First bytes of the file (shard_file.py), a character each."""
    start: int
    end: int
    """End of the numbers behind the header, in the shared memory; ``start`` is where they begin."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Job:
    """One checkpoint, for the writer of one rank."""

    folder: str
    """Folder of the run's checkpoints."""
    step: int
    attempt: str
    """A name that no other attempt at a checkpoint has, the same on every rank."""
    rank: int
    num_ranks: int
    files: tuple[FileJob, ...]
    """Files of this rank; every rank has as many."""
    leader: LeaderJob | None

    @property
    def num_bytes(self) -> int:
        """Bytes of this rank's files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def part(self) -> Path:
        """The folder while it is being written."""
        return Path(self.folder) / part_name(self.step)

    @property
    def entries(self) -> Path:
        """The folder in which the writers meet."""
        return self.part / f"{ENTRIES}-{self.attempt}"


def job_to_text(job: Job) -> str:
    """Return a job as JSON, for the writer process."""
    return json.dumps(asdict(job))


def job_from_text(text: bytes) -> Job:
    """Return the job in a text from ``job_to_text``."""
    fields = json.loads(text)
    leader = fields.pop("leader")
    if leader is not None:
        leader = LeaderJob(**leader | {"keep": Keep(**leader["keep"])})
    files = tuple(FileJob(**file) for file in fields.pop("files"))
    return Job(**fields, files=files, leader=leader)


def write_checkpoint(job: Job, numbers: memoryview, enter: Callable[[str], None]) -> str | None:
    """Write this rank's files; rank 0's writer makes the checkpoint of those of all ranks.

    Args: enter: called with the name of each stage as it begins.
    Returns: None, or what went wrong after the checkpoint was complete.
    Raises: SaveError.
    """
    try:
        enter("preparing the folder")
        if job.leader is None:
            _wait(job.entries.is_dir)
        else:
            _prepare(job, job.leader)
        enter("writing")
        entries = _write_files(job, numbers)
        if job.leader is None:
            write_whole(job.entries / f"{job.rank}.json", entries_to_text(entries))
            return None
        enter("waiting for the other ranks' files")
        entries += _gather(job)
        enter("sealing")
        final = _seal(job, job.leader, entries)
    except OSError as error:
        _tell_leader(job, f"{error.strerror or error} ({error.filename or job.part})")
        raise SaveError(f"{error.strerror or error} ({error.filename or job.part})") from None
    enter(DELETING)
    try:
        drop_old(final.parent, job.leader.keep)
    except OSError as error:
        return f"old checkpoints of {final.parent} could not be deleted: {error}"
    return None


def set_part_aside(folder: Path, step: int, reason: str) -> None:
    """Write beside ``step-N.part`` why it is not a checkpoint, if the disk takes it. The next save or start removes both."""
    part = folder / part_name(step)
    with contextlib.suppress(OSError):
        if part.is_dir():
            write_new(part.with_name(f"{part.name}.{REASON}"), reason + "\n")


def _prepare(job: Job, leader: LeaderJob) -> None:
    folder, final = Path(job.folder), Path(job.folder) / step_name(job.step)
    if not folder.parent.is_dir():
        raise SaveError(f"{folder.parent} no longer exists; create it again, or stop the run")
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    if os.path.lexists(job.part):
        raise SaveError(f"{job.part} is in the way and could not be removed; remove it by hand")
    if final.exists() and verify_checkpoint(final, deep=False).problems:
        set_aside(final, [f"{final} was there, incomplete, when the run reached this step again"])
    needed_files = inodes_while_written(num_ranks=job.num_ranks, num_files=len(job.files), num_texts=len(leader.texts))
    _check_space(folder, leader.num_bytes + sum(map(len, leader.texts.values())) + needed_files * 4096, needed_files)
    job.part.mkdir()  # by itself: it fails where a link was made since
    (job.part / SHARDS).mkdir()
    for name, text in leader.texts.items():
        write_new(job.part / name, text)
    job.entries.mkdir()


def _check_space(folder: Path, needed_bytes: int, needed_files: int) -> None:
    """Check that the disk has room. Raises: SaveError naming what is needed and what is there."""
    instead = "keep fewer with checkpoint.keep_last"
    lack = shortage(folder, "the checkpoint", needed_bytes=needed_bytes, instead=instead)
    if lack is not None:
        raise SaveError(lack)
    free_files = free_at(folder).num_files
    if free_files is not None and free_files < needed_files:
        raise SaveError(
            f"the checkpoint needs {needed_files:,} files and folders (inodes) and the disk of {folder} has {free_files:,} "
            f"left; delete {needed_files - free_files:,} files there, or keep fewer checkpoints with checkpoint.keep_last"
        )


def _write_files(job: Job, numbers: memoryview) -> list[FileEntry]:
    """Write this rank's files, as many at once as there are cores for their hashes. Raises: as ``_write_file``."""

    def write(file: FileJob) -> FileEntry:
        header = file.header.encode("latin-1")
        return _write_file(job.part, shard_path(file.number), header, numbers[file.start : file.end])

    with ThreadPoolExecutor(min(MAX_THREADS, cores_of_rank())) as threads:
        return list(threads.map(write, job.files))


def _write_file(part: Path, path: str, header: bytes, numbers: memoryview) -> FileEntry:
    """Write, hash and sync one file. The hash is of the memory, in a thread of its own: what the disk makes of it is checked
    against what was meant.

    Raises: OSError that says how far it came.
    """
    digest, size = new_hash(FAST), len(header) + len(numbers)
    digest.update(header)
    hasher = threading.Thread(target=digest.update, args=(numbers,))
    hasher.start()
    try:
        write_through(part / path, header, numbers)
    except OSError as error:
        with contextlib.suppress(OSError):
            error.strerror = f"{error.strerror} after {(part / path).stat().st_size:,} of {size:,} bytes"
        raise OSError(error.errno, error.strerror, str(part / path)) from None
    finally:
        hasher.join()
    return FileEntry(path=path, bytes=size, hash=hash_text(FAST, digest))


def _gather(job: Job) -> list[FileEntry]:
    """Return the entries of the other ranks. Raises: SaveError if one says that it failed."""
    missing = set(range(job.num_ranks)) - {job.rank}
    entries: list[FileEntry] = []

    def all_there() -> bool:
        for path in job.entries.iterdir():
            rank, kind = path.name.split(".", 1)
            if kind == "failed":
                raise SaveError(f"rank {rank}: {path.read_text()}")
            if kind == "json" and int(rank) in missing:
                entries.extend(entries_from_text(path.read_text()))
                missing.remove(int(rank))
        return not missing

    _wait(all_there)
    return entries


def _seal(job: Job, leader: LeaderJob, entries: list[FileEntry]) -> Path:
    """Seal the folder with its small files, and return its final name. Raises: as ``seal``."""
    final = Path(job.folder) / step_name(job.step)
    shutil.rmtree(job.entries)
    synced = {entry.path for entry in entries}  # each by the rank that wrote it, before it said so
    entries = entries + [describe(job.part, path) for path in sorted(leader.texts)]
    seal(job.part, final, step=job.step, entries=entries, synced=synced)
    return final


def _tell_leader(job: Job, reason: str) -> None:
    if job.leader is None:
        with contextlib.suppress(OSError):  # if this fails too, the rank itself tells the others
            write_whole(job.entries / f"{job.rank}.failed", reason)


def _wait(ready: Callable[[], bool]) -> None:
    """Wait until ``ready``; the rank that started this process has the deadline, and ends it there."""
    pause = LOOK_AGAIN_S
    while not ready():
        time.sleep(pause)
        pause = min(1.0, pause * 1.02)  # at most this part of the wait is spent too late

"""Room for the archive of code and packages on the disk of a node, which is often its memory, and then that of the job."""

import os
from pathlib import Path

from fanal.errors import UserError
from fanal.free_space import free_at, is_memory, nearest_folder
from fanal.host_memory import HostMemory, host_memory
from launch.preflight.space import gb

ARCHIVE = "FANAL_PACKED"
"""Environment variable of a job: the archive that each of its nodes unpacks."""


def check_node_local(archive: Path, folder: Path, memory: HostMemory | None = None) -> str:
    """Check that this node has room for an archive's content; returns what it takes, in words.

    Args: memory, that of this job; None asks for it.
    Raises: UserError naming the sizes and what works.
    """
    try:
        num_bytes = archive.stat().st_size
    except OSError as error:
        raise UserError(f"{archive} must be there, and is not ({error.strerror}); render the job again") from None
    free_bytes, kind = free_at(nearest_folder(folder)).num_bytes, "free"
    if is_memory(nearest_folder(folder)):
        available = (memory or host_memory()).available_bytes
        if available < free_bytes:
            free_bytes, kind = available, "left of the job's memory, in which it lies"
    said = f"code and packages take {gb(num_bytes)} of {folder} on each node, and {gb(free_bytes)} are {kind}"
    if num_bytes > free_bytes:
        raise UserError(f"{said}; --no-node-local works, and so does more memory for each node of the job")
    return said


def archive_of_job() -> Path | None:
    """Return the archive that this job's nodes unpack; None if it has none, or this is no job."""
    named = os.environ.get(ARCHIVE)
    return Path(named) if named else None

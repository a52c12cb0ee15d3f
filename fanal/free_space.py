"""Free space of a file system, in bytes and in files (inodes)."""

import os
from dataclasses import dataclass
from pathlib import Path

from fanal.cgroups import lines


@dataclass(frozen=True)
class Free:
    """Free space on a file system for this user."""

    num_bytes: int
    num_files: int | None
    """Number of files; None where files are not counted: some file systems say 0 of 0."""


def free_at(folder: Path) -> Free:
    """Return the free space of the file system that an existing folder lies on."""
    found = os.statvfs(folder)
    return Free(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def is_memory(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Return whether files of an existing folder lie in memory, which counts to that of whoever writes them."""
    real, kinds = f"{os.path.realpath(folder)}/", {}
    for line in lines(mounts):
        _, at, kind, *_ = line.split(" ")
        if real.startswith(f"{at.rstrip('/')}/"):
            kinds[len(at)] = kind  # of two on one place, the later one counts
    return kinds[max(kinds)] in ("tmpfs", "ramfs") if kinds else False


def nearest_folder(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def shortage(folder: Path, what: str, *, needed_bytes: int, instead: str) -> str | None:
    """Return the message for a disk that has too few bytes left for ``what``; None where it has enough.

    Args: instead: what works beside making room, such as "export to another disk".
    """
    free_bytes = free_at(folder).num_bytes
    if free_bytes >= needed_bytes:
        return None
    return (
        f"{what} needs {needed_bytes:,} bytes and the disk of {folder} has {free_bytes:,} left; free "
        f"{needed_bytes - free_bytes:,} bytes, or {instead}"
    )

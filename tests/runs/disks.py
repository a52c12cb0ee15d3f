"""Disks for the tests: small ones, full ones, and a file that no disk gives back. All of them are the kernel's own."""

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

UNREADABLE = Path("/proc/self/mem")
"""It opens, and reading its first byte is an input/output error."""


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A new folder that is a file system of its own. Args: options: of tmpfs, such as ``size=8m,nr_inodes=40``."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    result = subprocess.run(mount, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"this user cannot mount a small file system: {result.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte of a disk. Returns: the file to remove."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while stream.write(bytes(1 << 16)):
            pass
    return ballast


@contextlib.contextmanager
def no_file_longer_than(num_bytes: int) -> Iterator[None]:
    """What a full disk does to this process, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

"""Files that are either whole or absent, brought to disk, and hashed.

A name is given to a file only after its bytes are on disk: write `NAME.part`, fsync, rename, fsync the directory.
A process killed at any moment leaves the old file, the new file or a `.part`, never half a file under its final name.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fanal.read_errors import naming

READ_BLOCK_BYTES = 1 << 20
HASH_BLOCK_BYTES = 64 << 20
"""Large files are hashed in blocks of this size, so that a changed byte can be placed."""


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file that something was made from."""

    path: str
    """As the user gave it."""
    bytes: int
    """Size of the file in bytes."""
    first_block: int
    """Number of the first hashed block: 0, except where one part of many read the file from the middle on."""
    block_sha256: tuple[str, ...]
    """Of each 64 MiB block, 64 hexadecimal digits, taken while it was read; one, of the whole file, up to that size."""


def part_path(path: Path) -> Path:
    """The temporary neighbour of `path`; in the same directory, so that the rename is atomic."""
    return path.with_name(path.name + ".part")


class BlockHasher:
    """SHA-256 of each HASH_BLOCK_BYTES of a stream, as its bytes come by."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._digest = hashlib.sha256()
        self._filled = 0

    def update(self, content: bytes | memoryview) -> None:
        """The next bytes of the stream."""
        view = memoryview(content)
        while len(view):
            taken = view[: HASH_BLOCK_BYTES - self._filled]
            self._digest.update(taken)
            self._filled += len(taken)
            view = view[len(taken) :]
            if self._filled == HASH_BLOCK_BYTES:
                self._done.append(self._digest.hexdigest())
                self._digest, self._filled = hashlib.sha256(), 0

    def hexdigests(self) -> tuple[str, ...]:
        """One per block so far, the last of them perhaps shorter; empty for an empty stream."""
        return (*self._done, self._digest.hexdigest()) if self._filled else tuple(self._done)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits. Reads the file once, in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with naming(path), path.open("rb") as stream:
        while block := stream.read(READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def block_sha256_of_file(path: Path) -> tuple[str, ...]:
    """SHA-256 of each HASH_BLOCK_BYTES of a file. Reads the file once."""
    hasher = BlockHasher()
    with naming(path), path.open("rb") as stream:
        while block := stream.read(READ_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigests()


def sync_path(path: Path) -> None:
    """Bring a file to disk, or the names inside a folder, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(stream: IO[bytes]) -> None:
    """Bring what was written to disk."""
    stream.flush()
    os.fsync(stream.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The temporary neighbour of `path`, to be written in the block; at its end it is renamed to `path`, on an error removed."""
    part = part_path(path)
    try:
        yield part
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # of a sick disk, which the error on its way out says better
            part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file that another process may read at any moment: it sees the old content or the new one, never half of it."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes_durably(path: Path, content: bytes) -> None:
    """Write a whole file under a temporary name, fsync, and rename it to `path` (replacing a file that is there)."""
    with replacing(path) as part, part.open("wb") as stream:
        stream.write(content)
        sync(stream)
    sync_path(path.parent)

"""Files that are either complete or absent, brought to disk, and hashed.

A name is given to a file only after its bytes are on disk: write `NAME.part`, fsync, rename, fsync the directory.
A process killed at any moment leaves the old file, the new file or a `.part`, never half a file under its final name.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from fanal.errors import WRONG_PATH, error_type, may_pass
from fanal.new_files import create_file

READ_BLOCK_BYTES = 1 << 20
HASH_BLOCK_BYTES = 64 << 20
"""Size of the blocks in which large files are hashed, so that a changed byte can be located."""
NOT_WRITTEN = WRONG_PATH | {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip
"""Error numbers of a file that a user asked for and that cannot be written until that user changes something."""
TRY_AGAIN = "try again, perhaps on another node"


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file that something was made from."""

    path: str
    """Path of the file, as the user gave it."""
    bytes: int
    """Size of the file in bytes."""
    first_block: int
    """Number of the first hashed block: 0, except where one part of many read the file from the middle on."""
    block_sha256: tuple[str, ...]
    """SHA-256 of each 64 MiB block, 64 hexadecimal digits, taken while it was read; up to that size one, of the
    complete file."""


def part_path(path: Path) -> Path:
    """Return the temporary neighbour of `path`; in the same directory, so that the rename is atomic."""
    return path.with_name(path.name + ".part")


class BlockHasher:
    """Hasher of a stream, as its bytes come by: SHA-256 of each HASH_BLOCK_BYTES."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._digest = hashlib.sha256()
        self._filled = 0

    def update(self, content: bytes | memoryview) -> None:
        """Hash the next bytes of the stream."""
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
        """Return one digest per block so far, the last block perhaps shorter; empty for an empty stream."""
        return (*self._done, self._digest.hexdigest()) if self._filled else tuple(self._done)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Judge the errors of a block that opens and reads a file that a user gave, and does nothing else.

    Raises: PassingError or UserError in place of an OSError, naming the path.
    """
    try:
        yield
    except OSError as problem:
        advice = TRY_AGAIN if may_pass(problem) else "make it a file that this user may read"
        raise error_type(problem)(f"{path} cannot be read: {problem.strerror or problem}; {advice}") from None


@contextlib.contextmanager
def writing(target: Path, *, note: str = "") -> Iterator[None]:
    """Judge the errors of a block that writes files at a place that a user chose, and does nothing else.

    Args: note is what else to know about what was written before.
    Raises: PassingError or UserError in place of an OSError that says why the disk does not take them; the error itself
    if it is a bug, such as a closed descriptor.
    """
    try:
        yield
    except OSError as problem:
        if not may_pass(problem) and problem.errno not in NOT_WRITTEN:
            raise
        raise error_type(problem)(
            f"{problem.filename or target} cannot be written: {problem.strerror or problem}; fix that and run again"
            f"{f' ({note})' if note else ''}"
        ) from None


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits. Reads the file once, in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as stream:
        while block := stream.read(READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def block_sha256_of_file(path: Path) -> tuple[str, ...]:
    """Return the SHA-256 of each HASH_BLOCK_BYTES of a file. Reads the file once."""
    hasher = BlockHasher()
    with reading(path), path.open("rb") as stream:
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
    """Flush a stream and fsync it."""
    stream.flush()
    os.fsync(stream.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file to write in the block, a temporary neighbour of `path`; at its end it is renamed to `path`, on an error
    removed. A link in its place is removed as well, and not followed."""
    part = part_path(path)
    try:
        with create_file(part) as stream:
            yield stream
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # of a failing disk, which the error on its way out describes better
            part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file that another process may read at any moment: it sees the old content or the new one, never half of it."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def write_bytes_durably(path: Path, content: bytes) -> None:
    """Write a complete file under a temporary name, fsync, and rename it to `path` (replacing an existing file).

    Raises: as `writing`.
    """
    with writing(path):
        with replacing(path) as stream:
            stream.write(content)
            sync(stream)
        sync_path(path.parent)

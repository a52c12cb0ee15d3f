"""Files that are either complete or absent, and small JSON records that describe large files.

A name is given to a file only after its bytes are on disk: write `NAME.part`, fsync, rename, fsync the directory.
A process killed at any moment leaves the old file, the new file or a `.part`, never half a file under its final name.
"""

import contextlib
import errno
import hashlib
import json
import os
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fanal.errors import WRONG_PATH, FanalError, UserError, error_type, may_pass

READ_BLOCK_BYTES = 1 << 20
HASH_BLOCK_BYTES = 64 << 20
"""Size of the blocks in which large files are hashed, so that a changed byte can be located."""
NOT_WRITTEN = WRONG_PATH | {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip
"""Error numbers of a file that a user asked for and that cannot be written until that user changes something."""
TRY_AGAIN = "try again, perhaps on another node"
Record = typing.TypeVar("Record")


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
def writing(target: Path) -> Iterator[None]:
    """Judge the errors of a block that writes files at a place that a user chose, and does nothing else.

    Raises: PassingError or UserError in place of an OSError that says why the disk does not take them; the error itself
    if it is a bug, such as a closed descriptor.
    """
    try:
        yield
    except OSError as problem:
        if not may_pass(problem) and problem.errno not in NOT_WRITTEN:
            raise
        raise error_type(problem)(
            f"{problem.filename or target} cannot be written: {problem.strerror or problem}; fix that and run again (a shard "
            "exists only if its .json does)"
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


def fsync_directory(directory: Path) -> None:
    """Make renames inside `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(stream: BinaryIO) -> None:
    """Flush a stream and fsync it."""
    stream.flush()
    os.fsync(stream.fileno())


def write_bytes_durably(path: Path, content: bytes) -> None:
    """Write a complete file under a temporary name, fsync, and rename it to `path` (replacing an existing file).

    Raises: as `writing`.
    """
    part = part_path(path)
    with writing(path):
        try:
            with part.open("wb") as stream:
                stream.write(content)
                sync(stream)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        fsync_directory(path.parent)


def record_bytes(record: Any) -> bytes:
    """Return a dataclass as an indented JSON object."""
    return (json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def write_record(path: Path, record: Any) -> None:
    """Write a dataclass as JSON, durably."""
    write_bytes_durably(path, record_bytes(record))


def read_record(record_type: type[Record], path: Path, *, remedy: str, error: type[FanalError] = UserError) -> Record:
    """Read what `write_record` wrote; every key must be known, present and of its type.

    Args: remedy is what the reader of an error should do; error is the exception to raise.
    Raises: error, naming the path, what was found and what was expected; PassingError if the disk does not give it now.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise error(f"{path} does not exist; {remedy}") from None
    except (ValueError, OSError) as problem:
        advice = TRY_AGAIN if may_pass(problem) else remedy
        raise error_type(problem, error)(f"{path} cannot be read as JSON ({problem}); {advice}") from None
    try:
        return _build(record_type, content, where="")
    except UserError as problem:
        raise error(f"{path}: {problem}; {remedy}") from None


def _build(record_type: Any, content: Any, *, where: str) -> Any:
    """Build a value of the annotated type from parsed JSON. Raises: UserError with the dotted place of the first misfit."""
    if is_dataclass(record_type):
        if not isinstance(content, dict):
            raise UserError(f"{where or 'the file'} holds {_shown(content)}, expected an object")
        hints = typing.get_type_hints(record_type)
        if unknown := sorted(set(content) - set(hints)):
            raise UserError(f"unknown key {where}{unknown[0]!r}, expected {', '.join(hints)}")
        required = {f.name for f in fields(record_type) if f.default is MISSING and f.default_factory is MISSING}
        if missing := sorted(required - set(content)):
            raise UserError(f"key {where}{missing[0]!r} is missing")
        built = {name: _build(hints[name], value, where=f"{where}{name}.") for name, value in content.items()}
        return typing.cast(Any, record_type)(**built)
    if typing.get_origin(record_type) is tuple:
        if not isinstance(content, list):
            raise UserError(f"{where[:-1]} holds {_shown(content)}, expected a list")
        item_type = typing.get_args(record_type)[0]
        return tuple(_build(item_type, item, where=f"{where}{number}.") for number, item in enumerate(content))
    # bool is an int in Python, but `true` is not a count of tokens.
    accepted = typing.get_args(record_type) if isinstance(record_type, types.UnionType) else (record_type,)
    if type(content) not in accepted:
        names = " or ".join(kind.__name__ for kind in accepted)
        raise UserError(f"{where[:-1]} holds {_shown(content)}, expected {names}")
    return content


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

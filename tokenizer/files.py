"""Files that are either whole or absent, and small JSON records that describe large files.

A name is given to a file only after its bytes are on disk: write `NAME.part`, fsync, rename, fsync the directory.
A process killed at any moment leaves the old file, the new file or a `.part`, never half a file under its final name.
"""

import hashlib
import json
import os
import types
import typing
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

READ_BLOCK_BYTES = 1 << 20
Record = typing.TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file that something was made from."""

    path: str
    """As the user gave it."""
    bytes: int
    """Size in bytes."""
    sha256: str
    """Of the whole file, 64 hexadecimal digits, taken while it was read."""


def part_path(path: Path) -> Path:
    """The temporary neighbour of `path`; in the same directory, so that the rename is atomic."""
    return path.with_name(path.name + ".part")


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits. Reads the file once, in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def fsync_directory(directory: Path) -> None:
    """Make renames inside `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_durably(path: Path, content: bytes) -> None:
    """Write a whole file under a temporary name, fsync, and rename it to `path` (replacing a file that is there)."""
    part = part_path(path)
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_record(path: Path, record: Any) -> None:
    """Write a dataclass as an indented JSON object, durably."""
    content = json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n"
    write_bytes_durably(path, content.encode("utf-8"))


def read_record(record_type: type[Record], path: Path, *, mend: str, error: type[ValueError] = ValueError) -> Record:
    """Read what `write_record` wrote; every key must be known, present and of its type.

    Args: mend is what the reader of an error should do; error is the exception to raise.
    Raises: error, naming the path, what was found and what was expected.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise error(f"{path} does not exist; {mend}") from None
    except (ValueError, OSError) as problem:
        raise error(f"{path} cannot be read as JSON ({problem}); {mend}") from None
    try:
        return _build(record_type, content, where="")
    except ValueError as problem:
        raise error(f"{path}: {problem}; {mend}") from None


def _build(record_type: Any, content: Any, *, where: str) -> Any:
    """A value of the annotated type from parsed JSON. Raises: ValueError with the dotted place of the first misfit."""
    if is_dataclass(record_type):
        if not isinstance(content, dict):
            raise ValueError(f"{where or 'the file'} holds {_shown(content)}, expected an object")
        hints = typing.get_type_hints(record_type)
        if unknown := sorted(set(content) - set(hints)):
            raise ValueError(f"unknown key {where}{unknown[0]!r}, expected {', '.join(hints)}")
        required = {f.name for f in fields(record_type) if f.default is MISSING and f.default_factory is MISSING}
        if missing := sorted(required - set(content)):
            raise ValueError(f"key {where}{missing[0]!r} is missing")
        built = {name: _build(hints[name], value, where=f"{where}{name}.") for name, value in content.items()}
        return typing.cast(Any, record_type)(**built)
    if typing.get_origin(record_type) is tuple:
        if not isinstance(content, list):
            raise ValueError(f"{where[:-1]} holds {_shown(content)}, expected a list")
        item_type = typing.get_args(record_type)[0]
        return tuple(_build(item_type, item, where=f"{where}{number}.") for number, item in enumerate(content))
    # bool is an int in Python, but `true` is no count of tokens.
    accepted = typing.get_args(record_type) if isinstance(record_type, types.UnionType) else (record_type,)
    if type(content) not in accepted:
        names = " or ".join(kind.__name__ for kind in accepted)
        raise ValueError(f"{where[:-1]} holds {_shown(content)}, expected {names}")
    return content


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

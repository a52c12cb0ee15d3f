"""Small JSON records: a dataclass written as a JSON object, and read back with every key known, present and of its type."""

import contextlib
import functools
import hashlib
import json
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from fanal.errors import DamageError, FanalError, UserError, error_type, may_pass
from fanal.files import TRY_AGAIN, write_bytes_durably
from fanal.plain_files import read_plain
from fanal.shown import KINDS, shown_json

Record = typing.TypeVar("Record")
MAX_RECORD_BYTES = 1 << 30
"""Largest record that is read: the manifest of a shard has a hash for each 64 MiB of it and of its inputs, 1.1 MB a TiB."""


class MisfitError(ValueError):
    """Parsed JSON is not the record it should be. Whoever reads the file makes it wrong input or damage."""


def record_bytes(record: Any) -> bytes:
    """Return a dataclass as an indented JSON object."""
    return object_bytes(asdict(record))


def object_bytes(content: dict[str, Any]) -> bytes:
    """Return a JSON object as ``record_bytes`` writes it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def write_record(path: Path, record: Any) -> None:
    """Write a dataclass as JSON, durably."""
    write_bytes_durably(path, record_bytes(record))


def read_record(record_type: type[Record], path: Path, *, remedy: str, error: type[FanalError] = UserError) -> Record:
    """Read what `write_record` wrote; every key must be known, present and of its type.

    Args: remedy is what the reader of an error should do; error is the exception to raise.
    Raises: error, naming the path, what was found and what was expected; PassingError if the disk does not give it now.
    """
    return record_in(record_type, read_json(path, remedy=remedy, error=error), path, remedy=remedy, error=error)


def read_json(path: Path, *, remedy: str, error: type[FanalError] = UserError) -> Any:
    """Return the parsed content of a JSON file. Args and errors: as ``read_record``.

    A whole number of more than 64 bits may come as a float, which is no count either.
    """
    return _read(path, remedy=remedy, error=error)[1]


def _read(path: Path, *, remedy: str, error: type[FanalError]) -> tuple[bytes, Any]:
    """Return the bytes of a JSON file, and its parsed content."""
    try:
        content = read_plain(path, max_bytes=MAX_RECORD_BYTES)
        with contextlib.suppress(orjson.JSONDecodeError):  # what it does not take (NaN, other encodings), Python's may
            return content, orjson.loads(content)
        return content, json.loads(content)
    except FileNotFoundError:
        raise error(f"{path} does not exist; {remedy}") from None
    except (ValueError, OSError, RecursionError) as problem:
        advice = TRY_AGAIN if may_pass(problem) else remedy
        raise error_type(problem, error)(f"{path} cannot be read as JSON ({problem}); {advice}") from None


def record_in(
    record_type: type[Record], content: Any, path: Path, *, remedy: str, error: type[FanalError] = UserError
) -> Record:
    """Build a dataclass from the parsed content of a file. Args and errors: as ``read_record``."""
    try:
        return record_of(record_type, content)
    except MisfitError as problem:
        raise error(f"{path}: {problem}; {remedy}") from None


def own_hash(content: dict[str, Any], field: str) -> str:
    """Return the SHA-256 of a JSON object without one field, which is the place for it: 64 hexadecimal digits.

    Spaces and the order of keys do not matter. Fields that the file does not have take no part, so that a version with more
    fields finds the same hash.
    """
    rest = {name: value for name, value in content.items() if name != field}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(record: Record, field: str) -> Record:
    """Return a record, complete but for its own hash, with that hash in its field: the last act before it is written."""
    return replace(record, **{field: own_hash(asdict(record), field)})  # type: ignore[type-var]


def has_own_hash(content: dict[str, Any], field: str) -> bool:
    """Return whether the hash in a field of a JSON object is its own (``own_hash``).

    Where the content is as it was written this takes a fifth of the time that computing the hash takes: orjson writes the same
    bytes as Python for nearly all content, and bytes with that hash are those that were hashed. Else Python has the last word.
    """
    rest = {name: value for name, value in content.items() if name != field}
    with contextlib.suppress(orjson.JSONEncodeError):
        if hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest() == content[field]:
            return True
    return own_hash(content, field) == content[field]


def read_sealed(
    path: Path, field: str, *, altered: str, remedy: str, error: type[FanalError] = DamageError
) -> dict[str, Any]:
    """Return the parsed content of a file that ``record_bytes`` of a ``sealed`` record is, of any version.

    Every byte is compared, since equal content may be written in other ones (1e-05 as 1E-05).
    Args: field: that of its own hash; altered: what a file that is not such is said to be, between its path and the remedy; error:
        raised for what is no JSON.
    Raises: DamageError; as ``read_json``.
    """
    written, content = _read(path, remedy=remedy, error=error)
    if _is_as_written(written, content, field):
        return content
    with contextlib.suppress(ValueError, RecursionError):
        exact = json.loads(written)  # of a whole number of more than 64 bits orjson makes a float
        if _is_as_written(written, exact, field):
            return exact
    raise DamageError(f"{path} {altered}; {remedy}")


def _is_as_written(written: bytes, content: Any, field: str) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get(field), str)
        and has_own_hash(content, field)
        and object_bytes(content) == written
    )


def read_numbered(record_type: type[Record], path: Path, number: int, field: str, *, remedy: str) -> Record:
    """Read one of the numbered files of a folder, each a ``sealed`` record with its number.

    Args: number: that of its name; field: that of its own hash; remedy: for one that was altered.
    Raises: DamageError if it is not what was written; UserError if another version of Fanal wrote it.
    """
    altered = f"must have the content whose sha256 is its {field}, and the number in its name; it was altered"
    content = read_sealed(path, field, altered=altered, remedy=remedy)
    if content.get("number") != number:
        raise DamageError(f"{path} {altered}; {remedy}")
    return record_in(record_type, content, path, remedy="read it with the version that wrote it")


def numbers_in(folder: Path, number_of: Callable[[str], int | None]) -> list[int]:
    """Return the numbers of a folder's files, rising; none where there is no folder. Args: number_of: as ``start_number``."""
    numbers = (number_of(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(number for number in numbers if number is not None)


def record_of(record_type: type[Record], content: Any) -> Record:
    """Build a dataclass from parsed JSON: every key known, present (or with a default) and of its type, at any depth.

    Lists become tuples, and a whole number is a float where one belongs.
    Raises: MisfitError with the dotted place of the first misfit.
    """
    return _build(record_type, content, where="")


def _build(kind: Any, content: Any, *, where: str) -> Any:
    if is_dataclass(kind):
        return _dataclass_of(kind, content, where=where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(content, list):
            raise MisfitError(f"{where[:-1]} holds {shown_json(content, 60)}, expected an array")
        return tuple(_build(arguments[0], item, where=f"{where}{number}.") for number, item in enumerate(content))
    if origin is types.UnionType or origin is typing.Union:
        structured = [choice for choice in arguments if is_dataclass(choice) or typing.get_origin(choice) is not None]
        if content is not None and structured:
            return _build(structured[0], content, where=where)
        accepted = arguments
    else:
        accepted = (origin or kind,)
    # bool is an int in Python, but `true` is not a count of tokens.
    fits = type(content) in accepted or (content is None and types.NoneType in accepted)
    if not fits and not (type(content) is int and float in accepted) and kind is not Any:
        names = " or ".join(KINDS.get(choice) or choice.__name__ for choice in accepted)
        raise MisfitError(f"{where[:-1]} holds {shown_json(content, 60)}, expected {names}")
    return content


def _dataclass_of(kind: Any, content: Any, *, where: str) -> Any:
    if not isinstance(content, dict):
        raise MisfitError(f"{where[:-1] or 'the file'} holds {shown_json(content, 60)}, expected an object")
    hints, required = _fields_of(kind)
    if unknown := sorted(set(content) - set(hints)):
        raise MisfitError(f"unknown key {where}{unknown[0]!r}, expected {', '.join(hints)}")
    if missing := sorted(required - set(content)):
        raise MisfitError(f"key {where}{missing[0]!r} is missing")
    return kind(**{name: _build(hints[name], value, where=f"{where}{name}.") for name, value in content.items()})


@functools.cache
def _fields_of(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the type of each field of a dataclass, and the fields without a default. Kept: a manifest has thousands of entries."""
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return typing.get_type_hints(kind), frozenset(required)

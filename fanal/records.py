"""Small JSON records: a dataclass written as a JSON object, and read back with every key known, present and of its type."""

import json
import types
import typing
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from fanal.errors import FanalError, UserError, error_type, may_pass
from fanal.files import TRY_AGAIN, write_bytes_durably
from fanal.shown import shown

Record = typing.TypeVar("Record")


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
            raise UserError(f"{where or 'the file'} holds {shown(content, 60)}, expected an object")
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
            raise UserError(f"{where[:-1]} holds {shown(content, 60)}, expected a list")
        item_type = typing.get_args(record_type)[0]
        return tuple(_build(item_type, item, where=f"{where}{number}.") for number, item in enumerate(content))
    # bool is an int in Python, but `true` is not a count of tokens.
    accepted = typing.get_args(record_type) if isinstance(record_type, types.UnionType) else (record_type,)
    if type(content) not in accepted:
        names = " or ".join(kind.__name__ for kind in accepted)
        raise UserError(f"{where[:-1]} holds {shown(content, 60)}, expected {names}")
    return content

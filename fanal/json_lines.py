"""Files of JSON lines, one object a line. They are read as they are found: a kill tears a line, a user edits one."""

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fanal.plain_files import plain_stream


def parse_lines(lines: Iterable[str], *, begins: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects in these lines; a line that is not a whole object is left out.

    Args: begins: how every object of the file begins, if that is known: then one that was written behind a torn line, on the same
        line, is found as well.
    """
    for line in lines:
        start = max(0, line.rfind(begins)) if begins is not None else 0
        with contextlib.suppress(ValueError, RecursionError):  # also numbers and nesting beyond Python's limits
            record = json.loads(line[start:])
            if isinstance(record, dict):
                yield record


def read_lines(path: Path, *, begins: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file, oldest first; none if there is no file. Bytes that are no text cost their line alone.

    Args: begins: see ``parse_lines``.
    """
    with (
        contextlib.suppress(FileNotFoundError),
        io.TextIOWrapper(plain_stream(path), encoding="utf-8", errors="replace") as stream,
    ):
        yield from parse_lines(stream, begins=begins)

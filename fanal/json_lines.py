"""Files of JSON lines, one object a line. They are read as they are found: a kill tears a line, a user edits one.

Read a line at a time, from either end, so that a file of years of records costs no more memory than one of an hour's. The end comes
first where the newest record is what is asked for.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from fanal.plain_files import plain_stream

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
"""Length from which on a line is no record, such as the zeros that a power cut leaves: it is passed over, not kept in memory."""


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
    with contextlib.suppress(FileNotFoundError), plain_stream(path) as stream:
        yield from parse_lines((line.decode(errors="replace") for line in _lines(stream)), begins=begins)


def lines_from_end(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without their ends, the last one first; none if there is no file. Whoever stops early has read no
    more than a block too much."""
    with contextlib.suppress(FileNotFoundError), plain_stream(path) as stream:
        place, parts, held = stream.seek(0, os.SEEK_END), [b""], 0
        while place:
            place -= (size := min(BLOCK_BYTES, place))
            stream.seek(place)
            first, *others = stream.read(size).split(b"\n")
            if others:
                if held + len(others[-1]) <= MAX_LINE_BYTES:
                    yield b"".join((others[-1], *reversed(parts)))
                yield from reversed(others[:-1])
                parts, held = [], 0
            held += len(first)
            parts = [*parts, first] if held <= MAX_LINE_BYTES else []
        if held <= MAX_LINE_BYTES:
            yield b"".join(reversed(parts))


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (more := stream.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
            pass

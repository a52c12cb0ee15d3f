"""The text that every match of a regular expression holds, found in the expression itself."""

import re
from collections.abc import Iterable, Iterator
from re import _constants as kinds  # type: ignore[attr-defined]  # where Python keeps the parts of an expression
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any


def longest_literal(pattern: str) -> str:
    """Return the longest run of characters, in UTF-8 bytes, that is in every text that the expression matches; empty if none is
    known, as where case is ignored.

    Raises: re.error, RecursionError, OverflowError as ``re.compile``.
    """
    parsed = parser.parse(pattern)
    if parsed.state.flags & re.IGNORECASE:
        return ""
    return max(_runs(parsed), key=_num_bytes, default="")


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8"))


def _runs(parts: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    """Yield runs of characters that follow one another in every match."""
    run = ""
    for kind, value in parts:
        if kind is kinds.LITERAL and not 0xD800 <= value < 0xE000:  # half of a pair is in no UTF-8
            run += chr(value)
            continue
        if kind is kinds.AT:  # takes no character
            continue
        yield run
        run = ""
        yield from _inside(kind, value)
    yield run


def _inside(kind: Any, value: Any) -> Iterator[str]:
    if kind is kinds.SUBPATTERN:
        _, added_flags, _, inner = value
        if not added_flags & re.IGNORECASE:
            yield from _runs(inner)
    elif kind is kinds.ATOMIC_GROUP:
        yield from _runs(value)
    elif kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        least, _, inner = value
        if least:
            yield from _runs(inner)

"""A regular expression over the text of whole documents, in bounded time."""

import re
import shlex
from collections.abc import Iterator

from fanal.errors import UserError
from fanal.shown import shown
from tokenizer.search.decode import ShardText
from tokenizer.search.hits import Place
from tokenizer.search.literals import longest_literal
from tokenizer.search.time_limit import OutOfTimeError, time_limit

LIMIT_S, LIMIT_S_PER_MB = 10.0, 1.0
"""Time that an expression has for a document, and for each million bytes of it: hundreds of times what most take."""
FOLLOWING_LITERAL_BYTES = 3
"""Bytes of a required text from which on it is looked for first. Shorter ones are in every document."""


class Expression:
    """A regular expression of Python's ``re`` on text. Raises: UserError if it is not one, or is empty."""

    def __init__(self, pattern: str) -> None:
        try:
            self._compiled = re.compile(pattern)
            literal = longest_literal(pattern)
        except (re.error, RecursionError, OverflowError) as problem:
            raise UserError(
                f"the regular expression {shown(pattern)} is none to Python's re: {str(problem) or type(problem).__name__}; "
                f"{_as_text(pattern)}"
            ) from None
        if not pattern:
            raise UserError(
                "the regular expression is empty, and an empty match is no occurrence; `--regex '[a-z]+'` works"
            )
        self.literal = literal.encode() if len(literal.encode()) >= FOLLOWING_LITERAL_BYTES else None
        """Bytes that every match holds; None if none are known, or too few."""

    def places(self, text: ShardText, number: int, start: int, end: int) -> Iterator[tuple[Place, int]]:
        """Yield every match in a document, with its number of bytes: those that ``finditer`` gives, but for empty ones.

        Args: number: of the document; start, end: its tokens. All of its text is in memory.
        Raises: UserError if the expression takes too long.
        """
        dropped, found = text.dropped(start, end), text.decode(start, end)
        # Bytes that are not UTF-8 become characters that are no text, each of them one, and back.
        characters = found.content[dropped:].decode("utf-8", "surrogateescape")
        byte, character = dropped, 0
        for begin, finish in self._matches(text, number, characters):
            byte += _num_bytes(characters[character:begin])
            num_bytes = _num_bytes(characters[begin:finish])
            first, last = (int(found.token_of(at)) for at in (byte, byte + num_bytes - 1))
            offset = byte - found.start_of(first)
            yield Place(number, start, end, start + first, start + last + 1, offset), num_bytes
            byte, character = byte + num_bytes, finish

    def _matches(self, text: ShardText, number: int, characters: str) -> list[tuple[int, int]]:
        limit_s = LIMIT_S + LIMIT_S_PER_MB * len(characters) / 1e6
        try:
            with time_limit(limit_s):
                spans = (match.span() for match in self._compiled.finditer(characters))
                return [(begin, end) for begin, end in spans if begin < end]
        except OutOfTimeError:
            raise UserError(
                f"the regular expression {shown(self._compiled.pattern)} takes more than {limit_s:.0f} s for document {number} of "
                f"{text.shard.prefix}, as one with repeats inside repeats does; say each repeat once, as a+ for (a+)+, or give "
                "a limit, as .{0,100} for .*"
            ) from None


def _as_text(pattern: str) -> str:
    """Return what finds the characters of an expression as they are."""
    try:
        pattern.encode()
    except UnicodeEncodeError:
        return "`--regex 'a+'` is one"
    return f"`{shlex.join(('--text', pattern))}` finds its characters as they are"


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))

"""Occurrences of a text: where they lie in a shard, and what is around them."""

from dataclasses import dataclass

import numpy as np

from tokenizer.search.decode import ShardText

EXCERPT_BYTES = 60
"""Bytes before an occurrence and behind it that its excerpt shows."""
MAX_SHOWN_BYTES = 200
"""Bytes of the occurrence itself that its excerpt shows, the first ones."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One occurrence."""

    document: int
    """Number of the document in the shard, from 0."""
    start_token: int
    """Token of the shard that holds the first byte of the occurrence."""
    end_token: int
    """One past the token of the shard that holds its last byte."""
    start_byte: int
    """First byte of the occurrence in the document's text."""
    end_byte: int
    """One past its last byte."""
    excerpt: str
    """The occurrence with the text around it; what is not UTF-8 is shown as U+FFFD."""


@dataclass(frozen=True)
class Place:
    """An occurrence whose text is known, before anything around it was decoded."""

    document: int
    document_start: int
    """Token of the shard at which the document starts."""
    document_end: int
    start_token: int
    end_token: int
    offset: int
    """First byte of the occurrence in the text of its first token."""


class Places:
    """What lies before and around the places of one shard, which come in its order."""

    def __init__(self, text: ShardText) -> None:
        self._text = text
        self._counted = (-1, 0, 0)  # document, token, bytes of the document before that token

    def hit(self, place: Place, *, num_bytes: int) -> Hit | None:
        """Return the occurrence at a place, of so many bytes; None if it begins in what decoding drops in front of the document."""
        start = self._bytes_before(place) + place.offset
        if start < 0:
            return None
        return Hit(
            document=place.document,
            start_token=place.start_token,
            end_token=place.end_token,
            start_byte=start,
            end_byte=start + num_bytes,
            excerpt=self._excerpt(place, num_bytes, max(0, start - EXCERPT_BYTES) - start),
        )

    def _bytes_before(self, place: Place) -> int:
        """Return the bytes of the document's text before the first token of a place; each token is counted once."""
        text, (document, token, before) = self._text, self._counted
        if document != place.document:
            token, before = place.document_start, -text.dropped(place.document_start, place.document_end)
        before += text.num_bytes(token, place.start_token)
        self._counted = (place.document, place.start_token, before)
        return before

    def _excerpt(self, place: Place, num_bytes: int, first: int) -> str:
        """Args: first: where the excerpt begins, in bytes from the occurrence's first."""
        text, shown_bytes = self._text, min(num_bytes, MAX_SHOWN_BYTES)
        start, end = reach(
            text,
            (place.document_start, place.document_end),
            (place.start_token, place.start_token + 1),
            before=EXCERPT_BYTES,
            behind=shown_bytes + EXCERPT_BYTES,
        )
        found = text.decode(start, end)
        at = found.start_of(place.start_token - start) + place.offset
        head = found.content[max(0, at + first) : at + shown_bytes]
        cut = "..." if shown_bytes < num_bytes else ""
        tail = b"" if cut else found.content[at + shown_bytes : at + shown_bytes + EXCERPT_BYTES]
        return _whole_characters(head + tail, cut_in_front=at + first > 0) + cut


def _whole_characters(content: bytes, *, cut_in_front: bool) -> str:
    """Return bytes as text without the rests of characters that were cut at either end."""
    if cut_in_front:
        content = content[next((at for at, byte in enumerate(content[:3]) if byte & 0xC0 != 0x80), 0) :]
    text = content.decode("utf-8", "replace")
    return text[:-1] if text.endswith("\ufffd") else text


def reach(
    text: ShardText, document: tuple[int, int], tokens: tuple[int, int], *, before: int, behind: int
) -> tuple[int, int]:
    """Return the tokens, first and one past the last, that hold so many bytes before and behind some tokens of a document.

    Fewer where the document ends. Tokens without bytes, such as control tokens, may be any number.
    """
    start, end = tokens
    need = before
    while need > 0 and start > document[0]:
        further = max(document[0], start - need)
        need -= text.num_bytes(further, start)
        start = further
    need = behind
    while need > 0 and end < document[1]:
        further = min(document[1], end + need)
        need -= text.num_bytes(end, further)
        end = further
    return start, end


def occurrences(content: bytes, text: bytes) -> np.ndarray:
    """Return the first byte of every occurrence, also of those that overlap: int64 [occurrences]."""
    found, at = [], content.find(text)
    while at >= 0:
        found.append(at)
        at = content.find(text, at + 1)
    return np.array(found, dtype=np.int64)

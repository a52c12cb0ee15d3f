"""How much memory the pages of a Parquet file take once they are unpacked, by their own headers, before one is.

A file of a few hundred bytes may describe gigabytes: a page of zeros that compress, a value that is written once in a dictionary,
or as the beginning of the next one, and stands in every row. The headers say it, as each page is unpacked into as many bytes as its
header names and no more; the file's footer need not.
Format: https://parquet.apache.org/docs/file-format, parquet.thrift (Thrift's compact protocol).
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
BY_DICTIONARY, BY_LENGTHS, BY_PREFIX = (2, 8), (5, 6, 7), (7,)
"""Encodings: by number in a dictionary; those that unpack all lengths of a page at once; as what the last value begins with."""
HEADER_BYTES, MAX_HEADER_BYTES = 1 << 10, 1 << 24
"""Bytes read for a header at first, and at most."""
VALUE_BYTES = 16
"""Memory for the place and the length of one value."""
MAX_DEPTH = 8


class PageError(ValueError):
    """The headers of the pages cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page, as its header describes it."""

    kind: int
    encoding: int
    num_values: int
    packed_bytes: int
    """Bytes in the file."""
    num_bytes: int
    """Bytes in memory, once it is unpacked."""


@dataclass(frozen=True, kw_only=True)
class ColumnBounds:
    """Bounds of the memory that one column takes in a row group."""

    page_bytes: int
    """Bytes of its dictionary and of its largest page together."""
    packed_bytes: int
    """Bytes of these two in the file."""
    repeated_bytes: int
    """Bytes of a value that is written once and may stand in every row, at most."""
    written_bytes: int
    """Bytes of all its data pages: of all values that are written for their own row."""


def bounds_of(descriptor: int, column: Any) -> ColumnBounds:
    """Return the bounds of a column of a row group. Args: column: pyarrow's ColumnChunkMetaData. Raises: PageError."""
    pages = list(_pages(descriptor, column))
    data = [page for page in pages if page.kind in (DATA_PAGE, DATA_PAGE_V2)]
    dictionary = _largest(page for page in pages if page.kind == DICTIONARY_PAGE)
    largest = _largest(data)
    prefixes = max((page.num_bytes for page in data if page.encoding in BY_PREFIX), default=0)
    numbered = any(page.encoding in BY_DICTIONARY for page in data)
    return ColumnBounds(
        page_bytes=dictionary.num_bytes + largest.num_bytes,
        packed_bytes=dictionary.packed_bytes + largest.packed_bytes,
        repeated_bytes=max(prefixes, dictionary.num_bytes if numbered else 0),
        written_bytes=sum(page.num_bytes for page in data),
    )


def _largest(pages: Iterable[Page]) -> Page:
    none = Page(kind=DATA_PAGE, encoding=0, num_values=0, packed_bytes=0, num_bytes=0)
    return max(pages, key=lambda page: page.num_bytes, default=none)


def _pages(descriptor: int, column: Any) -> Iterator[Page]:
    """Yield the pages that a reader of the column meets, up to the last of its values."""
    file_bytes = os.fstat(descriptor).st_size
    place = column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < place:
        place = column.dictionary_page_offset
    num_values = 0
    while num_values < column.num_values:
        header, length = _header_at(descriptor, place)
        page = _page_of(header)
        place += length + page.packed_bytes
        if place > file_bytes:
            raise PageError(f"a page of {page.packed_bytes:,} bytes goes on behind the end of the file")
        yield page
        num_values += page.num_values if page.kind != DICTIONARY_PAGE else 0


def _page_of(header: dict[int, Any]) -> Page:
    kind, unpacked, packed = (header.get(field, -1) for field in (1, 2, 3))
    fields = header.get({DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}.get(kind, 0), {})
    if not isinstance(fields, dict):
        raise PageError(f"a page has the header {header}")
    num_values, encoding = fields.get(1, 0), fields.get(4 if kind == DATA_PAGE_V2 else 2, 0)
    numbers = (kind, unpacked, packed, num_values, encoding)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise PageError(f"a page has the header {header}")
    num_bytes = max(unpacked, packed)
    if kind == DICTIONARY_PAGE or encoding in BY_LENGTHS:
        num_bytes += VALUE_BYTES * num_values
    return Page(kind=kind, encoding=encoding, num_values=num_values, packed_bytes=packed, num_bytes=num_bytes)


def _header_at(descriptor: int, place: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a header by their numbers, and its length."""
    num_bytes = HEADER_BYTES
    while True:
        content = os.pread(descriptor, num_bytes, place)
        try:
            return _Fields(content).read()
        except IndexError:
            if len(content) < num_bytes or num_bytes >= MAX_HEADER_BYTES:
                raise PageError(f"no header of a page ends behind byte {place:,}") from None
        num_bytes *= 16


class _Fields:
    """Reader of a struct in Thrift's compact protocol. Raises: IndexError where the bytes end; PageError."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def read(self) -> tuple[dict[int, Any], int]:
        """Return its fields by their numbers, and its length."""
        return self._struct(MAX_DEPTH), self._at

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _number(self) -> int:
        number = shift = 0
        while (byte := self._byte()) & 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise PageError("a number in the header of a page is longer than 64 bits")
        return number | byte << shift

    def _signed(self) -> int:
        number = self._number()
        return number >> 1 ^ -(number & 1)

    def _skip(self, num_bytes: int) -> None:
        self._at += num_bytes
        if self._at > len(self._content):
            raise IndexError

    def _struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if not depth:
            raise PageError("the header of a page is nested too deep")
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._number())
        if kind in (9, 10):
            head = self._byte()
            for _ in range(self._number() if head >> 4 == 15 else head >> 4):
                self._value(head & 15, depth - 1)
            return None
        if kind == 12:
            return self._struct(depth - 1)
        raise PageError(f"the header of a page has a field of type {kind}")

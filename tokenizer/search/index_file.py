"""PREFIX.search: which runs of four bytes each block of a shard's text holds.

A block is some documents that follow one another, or a part of one that is larger. Its text has one flag for each of NUM_ROWS
hashes of such runs (grams.py): a text can only lie in a block that has all of its flags. The flags of BLOCKS_PER_GROUP blocks lie
side by side, so that a search reads the rows of its own hashes and nothing else.

groups   of each: NUM_ROWS rows, each one bit per block, in bytes, lowest bit first
tables   first token of each block and last the number of tokens (int64), bytes of its text (int64), whether it goes on with the
         document of the block before (uint8), CRC-32 of each PAGE_BYTES of the groups (uint32); all little-endian
footer   JSON (IndexFooter): the shard that this is of, sizes, the hash of the tables and its own
         uint32   bytes of that JSON
         8 bytes  MAGIC
"""

import json
import shlex
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from blake3 import blake3

from fanal.errors import DamageError
from fanal.files import reading
from fanal.records import MisfitError, has_own_hash, record_of
from tokenizer.search.grams import NUM_ROWS
from tokenizer.shards.manifest import SEARCH_END, ShardError, ShardManifest

FORMAT_VERSION = 1
MAGIC = b"FANALSCH"
END = struct.Struct("<I8s")
MAX_FOOTER_BYTES = 1 << 20
BLOCKS_PER_GROUP = 8192
PAGE_BYTES = 4096
OWN_HASH = "footer_sha256"


class DamagedIndexError(DamageError):
    """Bytes of an index are not those that were written."""


@dataclass(frozen=True, kw_only=True)
class IndexFooter:
    """What an index is of, and how it lies in the file."""

    format_version: int
    tokenizer_sha256: str
    idx_sha256: str
    bin_sha256: str
    """Hashes of the shard, as its manifest has them."""
    num_blocks: int
    group_bytes: int
    """Bytes of all groups."""
    tables_blake3: str
    fanal_version: str
    """Version of the code that wrote it."""
    footer_sha256: str | None = None
    """SHA-256 of everything else here (``own_hash``)."""


@dataclass(frozen=True, eq=False)
class Tables:
    """What is known of each block."""

    first_tokens: np.ndarray
    """Token at which each block starts, and last the number of tokens: int64 [blocks + 1]."""
    text_bytes: np.ndarray
    """Bytes of each block's text: int64 [blocks]."""
    goes_on: np.ndarray
    """Whether each block begins inside a document: bool [blocks]."""
    page_sums: np.ndarray
    """CRC-32 of each page of the groups: uint32 [pages]."""

    def to_bytes(self) -> bytes:
        """Return the tables as they lie in the file."""
        kinds = (("<i8", self.first_tokens), ("<i8", self.text_bytes), ("u1", self.goes_on), ("<u4", self.page_sums))
        return b"".join(np.asarray(table).astype(kind).tobytes() for kind, table in kinds)

    @staticmethod
    def of_bytes(content: bytes, num_blocks: int) -> "Tables":
        """Return the tables of so many blocks."""
        parts, at = [], 0
        for kind, count in (("<i8", num_blocks + 1), ("<i8", num_blocks), ("u1", num_blocks), ("<u4", -1)):
            part = np.frombuffer(content, dtype=kind, count=count, offset=at)
            parts.append(part)
            at += part.nbytes
        return Tables(parts[0], parts[1], parts[2].astype(bool), parts[3])


def index_path(prefix: str | Path) -> Path:
    """Return the path of a shard's search index."""
    return Path(f"{prefix}{SEARCH_END}")


def rebuild_command(prefix: str | Path, directory: str | Path = "DIR") -> str:
    """Return the command that makes the index of a shard. Args: directory: of its tokenizer."""
    return shlex.join(("fanal", "tokenizer", "index", str(prefix), "--tokenizer", str(directory)))


def group_widths(num_blocks: int) -> list[int]:
    """Return the bytes of a row in each group."""
    return [-(-min(BLOCKS_PER_GROUP, num_blocks - first) // 8) for first in range(0, num_blocks, BLOCKS_PER_GROUP)]


class SearchIndex:
    """An opened index; its tables are in memory, the rows of its groups are read when they are asked for.

    Args: remedy: what to do about one that cannot be used.
    Raises: ShardError if it is of other files; DamagedIndexError; PassingError.
    """

    def __init__(self, prefix: Path, manifest: ShardManifest, *, remedy: str) -> None:
        self._remedy, self.path = remedy, index_path(prefix)
        with reading(self.path), self.path.open("rb") as stream:
            self.footer, tables = self._read(stream)
        self._check_is_of(manifest)
        self._widths = group_widths(self.footer.num_blocks)
        num_pages = -(-self.footer.group_bytes // PAGE_BYTES)
        sound = (
            blake3(tables).hexdigest() == self.footer.tables_blake3
            and self.footer.group_bytes == NUM_ROWS * sum(self._widths)
            and len(tables) == 17 * self.footer.num_blocks + 8 + 4 * num_pages
        )
        if not sound:
            raise self._damaged("its tables")
        self.tables = Tables.of_bytes(tables, self.footer.num_blocks)

    def _read(self, stream: BinaryIO) -> tuple[IndexFooter, bytes]:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - END.size))
        end = stream.read(END.size)
        length, magic = END.unpack(end) if len(end) == END.size else (0, b"")
        if magic != MAGIC or not 0 < length <= min(MAX_FOOTER_BYTES, size - END.size):
            raise self._damaged("its end")
        stream.seek(size - END.size - length)
        try:
            content = json.loads(stream.read(length))
            footer = record_of(IndexFooter, content)
        except (ValueError, RecursionError, MisfitError):
            raise self._damaged("its footer") from None
        if footer.footer_sha256 is None or not has_own_hash(content, OWN_HASH):
            raise self._damaged("its footer")
        if footer.format_version != FORMAT_VERSION:
            raise ShardError(
                f"{self.path} has format_version {footer.format_version}, but this program reads {FORMAT_VERSION}; "
                f"{self._remedy}"
            )
        tables_bytes = size - END.size - length - footer.group_bytes
        if footer.group_bytes < 0 or tables_bytes < 0:
            raise self._damaged("its size")
        stream.seek(footer.group_bytes)
        return footer, stream.read(tables_bytes)

    def _check_is_of(self, manifest: ShardManifest) -> None:
        for name in ("tokenizer_sha256", "idx_sha256", "bin_sha256"):
            found, expected = getattr(self.footer, name), getattr(manifest, name)
            if found != expected:
                raise ShardError(
                    f"{self.path} is the index of another shard: it has {name} {found}, and the shard has {expected}; "
                    f"{self._remedy}"
                )

    def _damaged(self, what: str) -> DamagedIndexError:
        return DamagedIndexError(
            f"{self.path} is not as it was written ({what}), so a search with it could miss a text; {self._remedy}"
        )

    def rows(self, hashes: np.ndarray) -> Iterator[np.ndarray]:
        """Yield whether each block has the flag of each hash: bool [blocks]. Raises: DamagedIndexError, PassingError."""
        with reading(self.path), self.path.open("rb", buffering=0) as stream:
            for row in hashes.tolist():
                parts, start = [], 0
                for width in self._widths:
                    parts.append(np.frombuffer(self._checked(stream, start + row * width, width), dtype=np.uint8))
                    start += NUM_ROWS * width
                flags = [np.unpackbits(part, bitorder="little") for part in parts]
                yield np.concatenate(flags)[: self.footer.num_blocks].view(bool)

    def check_pages(self) -> None:
        """Read all groups. Raises: DamagedIndexError, PassingError."""
        with reading(self.path), self.path.open("rb") as stream:
            for start in range(0, self.footer.group_bytes, PAGE_BYTES):
                self._checked(stream, start, 1)

    def _checked(self, stream: BinaryIO, start: int, size: int) -> bytes:
        """Return bytes of the groups, after a look at the sums of the pages that they lie on."""
        first, last = start // PAGE_BYTES, (start + size - 1) // PAGE_BYTES
        stream.seek(first * PAGE_BYTES)
        end = min((last + 1) * PAGE_BYTES, self.footer.group_bytes)
        content = stream.read(end - first * PAGE_BYTES)
        for page in range(first, last + 1):
            held = content[(page - first) * PAGE_BYTES : (page - first + 1) * PAGE_BYTES]
            if zlib.crc32(held) != self.tables.page_sums[page]:
                raise self._damaged(f"bytes {page * PAGE_BYTES} to {min((page + 1) * PAGE_BYTES, end)}")
        return content[start - first * PAGE_BYTES : start - first * PAGE_BYTES + size]

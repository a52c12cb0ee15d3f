"""Token shards: the files that training reads, in the format of Megatron's IndexedDataset plus a manifest.

PREFIX.bin   the tokens of all documents, one after the other, little-endian uint16 (vocab_size < 65,500) or int32
PREFIX.idx   little-endian, without padding, for n documents:
                  9 bytes   b"MMIDIDX\\x00\\x00"
                  uint64    version, 1
                  uint8     code of the dtype: 8 uint16, 4 int32
                  uint64    number of sequences, n
                  uint64    number of document indices, n + 1
              n * int32     tokens in each sequence
              n * int64     byte offset of each sequence in the .bin
        (n + 1) * int64     number of the first sequence of each document, and n
PREFIX.json  the manifest (manifest.py), written last: without it a shard is unfinished
PREFIX.documents.parquet
             where each document came from and what it said of itself (document_columns.py); may be left out, training never
             opens it

Here a document is always one sequence, so the document indices are 0 to n. Megatron's own reader opens these files, and
its builder writes the same bytes from the same ids. This room needs neither: no torch is imported. Writing: writer.py.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fanal.errors import user_path
from tokenizer.shards.index import check_files, map_tables, read_pointers
from tokenizer.shards.manifest import (
    DTYPES,
    DamagedShardError,
    EncodeOptions,
    ShardError,
    ShardManifest,
    read_manifest,
    shard_paths,
)
from tokenizer.shards.writer import ShardWriter

__all__ = [
    "EncodeOptions",
    "Shard",
    "ShardError",
    "ShardManifest",
    "ShardWriter",
    "open_shard",
    "read_manifest",
    "shard_paths",
]


@dataclass(frozen=True)
class Shard:
    """An opened shard. Only the manifest is in memory until tokens or document_offsets is asked for."""

    prefix: Path
    manifest: ShardManifest

    @property
    def num_documents(self) -> int:
        return self.manifest.num_documents

    @property
    def num_tokens(self) -> int:
        return self.manifest.num_tokens

    @property
    def dtype(self) -> np.dtype:
        return DTYPES[self.manifest.dtype]

    @cached_property
    def tokens(self) -> np.memmap:
        """All tokens, [num_tokens], of the shard's dtype, read-only, mapped and not read."""
        path = shard_paths(self.prefix)[0]
        with user_path(path):
            return np.memmap(path, dtype=self.dtype, mode="r", shape=(self.num_tokens,))

    @cached_property
    def document_offsets(self) -> np.ndarray:
        """Token at which each document starts, last num_tokens: int64 [num_documents + 1], read-only, in memory."""
        offsets = np.empty(self.num_documents + 1, dtype=np.int64)
        offsets[:-1] = read_pointers(self.prefix, self.num_documents) // self.dtype.itemsize
        offsets[-1] = self.num_tokens
        offsets.flags.writeable = False
        return offsets

    def documents_in(self, start_token: int, num_tokens: int) -> np.ndarray:
        """Return the tokens at which a document starts, among the num_tokens tokens from start_token on: int64
        [documents], ascending.

        Two binary searches on the mapped index: nothing but the pages they touch is read, however large the shard.
        Raises: DamagedShardError if the documents found do not lie one after the other, as in a sound index.
        """
        lengths, pointers = self._mapped_tables
        begin, end = start_token * self.dtype.itemsize, (start_token + num_tokens) * self.dtype.itemsize
        first = bisect.bisect_left(pointers, begin)
        # Every document has a token, so num_tokens tokens hold at most as many starts.
        last = bisect.bisect_left(pointers, end, lo=first, hi=min(self.num_documents, first + num_tokens))
        held = slice(max(0, first - 1), last)  # with the document before, whose end is the first start
        ends = pointers[held] + lengths[held] * np.int64(self.dtype.itemsize)
        nexts = pointers[held.start + 1 : last + 1]
        if last == self.num_documents:
            nexts = np.append(nexts, self.num_tokens * self.dtype.itemsize)
        if len(ends) != len(nexts) or (ends != nexts).any() or (first and pointers[first - 1] >= begin):
            raise self._damaged_around(start_token)
        return pointers[first:last] // self.dtype.itemsize

    def document_start(self, token: int) -> int:
        """Return the first token of the document that holds ``token``; searched like ``documents_in``."""
        _, pointers = self._mapped_tables
        return int(pointers[bisect.bisect_right(pointers, token * self.dtype.itemsize) - 1]) // self.dtype.itemsize

    def documents_over(self, start_token: int, num_tokens: int) -> range:
        """Return the numbers of the documents that hold the num_tokens tokens from start_token on; searched like
        ``documents_in``."""
        _, pointers = self._mapped_tables
        last_token = start_token + num_tokens - 1
        first, last = (
            bisect.bisect_right(pointers, token * self.dtype.itemsize) - 1 for token in (start_token, last_token)
        )
        return range(first, last + 1)

    def document_span(self, number: int) -> tuple[int, int]:
        """Return (first token, number of tokens) of one document, from the mapped index."""
        lengths, pointers = self._mapped_tables
        return int(pointers[number]) // self.dtype.itemsize, int(lengths[number])

    def document_edges(self, start_token: int, num_tokens: int) -> tuple[int, np.ndarray]:
        """Return the number of the first document that holds one of the num_tokens tokens from start_token on, and the token at
        which each of these documents starts, last the one at which they end: int64 [documents + 1]. Searched like ``documents_in``.

        Raises: DamagedShardError if they do not lie one after the other.
        """
        numbers = self.documents_over(start_token, num_tokens)
        edges = self._mapped_tables[1][max(0, numbers.start) : numbers.stop + 1] // self.dtype.itemsize
        if numbers.stop >= self.num_documents:
            edges = np.append(edges, self.num_tokens)
        last_token = start_token + num_tokens - 1
        around = len(edges) > 1 and edges[0] <= start_token < edges[1] and edges[-2] <= last_token < edges[-1]
        if numbers.start < 0 or not around or (edges[1:] <= edges[:-1]).any():
            raise self._damaged_around(start_token)
        return numbers.start, edges

    def document_lengths(self, num_documents: int) -> Iterator[np.ndarray]:
        """Yield the tokens of each document, of so many documents at a time: int32 [documents], mapped."""
        lengths, _ = self._mapped_tables
        for first in range(0, self.num_documents, num_documents):
            yield lengths[first : first + num_documents]

    def _damaged_around(self, token: int) -> DamagedShardError:
        return DamagedShardError(
            f"{shard_paths(self.prefix)[1]} does not say where the documents around token {token} lie: it changed; "
            f"`fanal tokenizer verify {self.prefix} --deep` tells more, copy or encode the shard again"
        )

    @cached_property
    def _mapped_tables(self) -> tuple[np.ndarray, np.ndarray]:
        return map_tables(self.prefix, self.num_documents)

    def __reduce__(self) -> tuple:
        # A pickle (to a worker process) carries the name, never the tokens of the map.
        return open_shard, (self.prefix,)

    def document(self, number: int) -> np.ndarray:
        """Return the ids of one document, [its tokens], read-only."""
        start, end = self.document_offsets[number : number + 2]
        return self.tokens[start:end]


def open_shard(prefix: str | Path) -> Shard:
    """Open a shard after checks whose cost does not grow with it: sizes, header, both ends of every table, manifest.

    They find a missing, cut or mixed-up file. The manifest's list of input files is hashed and not read. Changed bytes inside
    are found by `verify(..., deep=True)`.
    Raises: ShardError.
    """
    manifest = read_manifest(prefix, with_inputs=False)
    check_files(prefix, manifest)
    return Shard(prefix=Path(prefix), manifest=manifest)

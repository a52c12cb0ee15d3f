"""Build the search index of a shard (layout: index_file.py): its text is decoded once, and memory does not grow with it."""

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from blake3 import blake3

from fanal.errors import UserError, user_path
from fanal.files import BlockHasher, replacing, sync, sync_path, writing
from fanal.locks import take_lock_by_name
from fanal.new_files import open_to_lock
from fanal.records import sealed
from tokenizer.search.decode import Decoder, ShardText
from tokenizer.search.grams import GRAM_BYTES, NUM_ROWS, grams_of
from tokenizer.search.index_file import (
    BLOCKS_PER_GROUP,
    END,
    FORMAT_VERSION,
    MAGIC,
    OWN_HASH,
    PAGE_BYTES,
    DamagedIndexError,
    IndexFooter,
    SearchIndex,
    Tables,
    index_path,
)
from tokenizer.shards.manifest import DamagedShardError, ShardError, ShardManifest, fanal_version, shard_paths
from tokenizer.shards.shard import Shard, open_shard
from tokenizer.vocabulary.folder import Tokenizer

BLOCK_TOKENS = 1 << 14
"""Tokens from which on a block ends with its document; a document goes on in the next block after twice as many."""


def build_index(
    prefix: str | Path, tokenizer: Tokenizer, *, progress: Callable[[int], object] = lambda num_bytes: None
) -> Path:
    """Write PREFIX.search, whole or not at all; one that is there is replaced. Every byte of the .bin is hashed on the way.

    Args: progress: told the bytes of the .bin that are done.
    Returns: its path.
    Raises: UserError if the tokenizer is not the shard's, or if another process builds it; ShardError, DamagedShardError; as
        ``writing``.
    """
    shard = open_shard(prefix)
    text = ShardText(shard, tokenizer, Decoder(tokenizer.token_bytes()))
    path = index_path(prefix)
    with writing(path), _locked(path):
        with replacing(path) as stream:
            _write(stream, text, progress)
            sync(stream)
        sync_path(path.parent)
    return path


def has_sound_index(shard: Shard) -> bool:
    """Return whether a shard has an index that is of it and as it was written; all of it is read. Raises: PassingError."""
    path = index_path(shard.prefix)
    with user_path(path):
        if not path.is_file():
            return False
    try:
        SearchIndex(shard.prefix, shard.manifest, remedy="").check_pages()
    except (ShardError, DamagedIndexError):
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from building the same index."""
    lock = path.with_name(f"{path.name}.lock.part")
    with open_to_lock(lock) as stream:
        if not take_lock_by_name(lock, stream.fileno()):
            raise UserError(f"{path} is being built by another process; wait for it")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _write(stream: BinaryIO, text: ShardText, progress: Callable[[int], object]) -> None:
    shard, itemsize = text.shard, text.shard.dtype.itemsize
    hasher, groups = BlockHasher(), _Groups(stream)
    first_tokens, text_bytes, goes_on = [0], [], []
    tail = b""
    for start, end, inside in _blocks(shard):
        hasher.update(np.ascontiguousarray(text.tokens[start:end]).view(np.uint8).data)
        content = text.decode(start, end).content
        # With the end of the block before, since a run belongs to the block that holds its last byte.
        groups.add(grams_of(tail + content))
        tail = _tail(tail + content)
        first_tokens.append(end)
        text_bytes.append(len(content))
        goes_on.append(inside)
        progress(end * itemsize)
    _check_hashes(shard, hasher)
    groups.finish()
    tables = Tables(
        np.array(first_tokens), np.array(text_bytes), np.array(goes_on), np.array(groups.page_sums, dtype=np.uint32)
    ).to_bytes()
    stream.write(tables)
    stream.write(_footer(shard.manifest, len(text_bytes), groups.num_bytes, tables))


def _tail(content: bytes) -> bytes:
    """Return the end of a block in which runs begin that end in the next one."""
    return content[1 - GRAM_BYTES :]


def _blocks(shard: Shard) -> Iterator[tuple[int, int, bool]]:
    """Yield (first token, one past the last, whether it begins inside a document) of each block."""
    start, inside = 0, False
    while start < shard.num_tokens:
        last = min(start + BLOCK_TOKENS, shard.num_tokens) - 1
        document_end = int(shard.document_edges(last, 1)[1][-1])
        end = min(document_end, start + 2 * BLOCK_TOKENS)
        yield start, end, inside
        start, inside = end, end < document_end


def _check_hashes(shard: Shard, hasher: BlockHasher) -> None:
    expected, found = shard.manifest.bin_block_sha256, hasher.hexdigests()
    different = next(
        (number for number, pair in enumerate(zip(expected, found, strict=True)) if len(set(pair)) > 1), None
    )
    if different is not None:
        raise DamagedShardError(
            f"{shard_paths(shard.prefix)[0]} is not what its manifest says, first in its block {different} of 64 MiB: it changed; "
            f"`fanal tokenizer verify {shard.prefix} --deep` tells more, copy or encode the shard again"
        )


def _footer(manifest: ShardManifest, num_blocks: int, group_bytes: int, tables: bytes) -> bytes:
    footer = IndexFooter(
        format_version=FORMAT_VERSION,
        tokenizer_sha256=manifest.tokenizer_sha256,
        idx_sha256=manifest.idx_sha256,
        bin_sha256=manifest.bin_sha256,
        num_blocks=num_blocks,
        group_bytes=group_bytes,
        tables_blake3=blake3(tables).hexdigest(),
        fanal_version=fanal_version(),
    )
    content = json.dumps(asdict(sealed(footer, OWN_HASH))).encode()
    return content + END.pack(len(content), MAGIC)


class _Groups:
    """The groups as they are written: the flags of one group are in memory, NUM_ROWS times BLOCKS_PER_GROUP bits (16 MiB)."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._flags = np.zeros((8, NUM_ROWS), dtype=bool)  # of the last eight blocks
        self._columns: list[np.ndarray] = []  # of eight blocks each: uint8 [NUM_ROWS]
        self._num_flags = 0
        self._page = b""
        self.page_sums: list[int] = []
        self.num_bytes = 0

    def add(self, hashes: np.ndarray) -> None:
        """Add a block with runs of these hashes."""
        self._flags[self._num_flags][hashes] = True
        self._num_flags += 1
        if self._num_flags == 8:
            self._pack()

    def _pack(self) -> None:
        self._columns.append(np.packbits(self._flags, axis=0, bitorder="little")[0])
        self._flags[:] = False
        self._num_flags = 0
        if len(self._columns) == BLOCKS_PER_GROUP // 8:
            self._write_group()

    def _write_group(self) -> None:
        content = np.stack(self._columns, axis=1).tobytes()
        self._columns = []
        self._stream.write(content)
        self.num_bytes += len(content)
        paged = self._page + content
        whole = len(paged) // PAGE_BYTES * PAGE_BYTES
        self.page_sums += [zlib.crc32(paged[start : start + PAGE_BYTES]) for start in range(0, whole, PAGE_BYTES)]
        self._page = paged[whole:]

    def finish(self) -> None:
        """Write what is left."""
        if self._num_flags:
            self._pack()
        if self._columns:
            self._write_group()
        if self._page:
            self.page_sums.append(zlib.crc32(self._page))

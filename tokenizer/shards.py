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
PREFIX.json  the manifest (manifest.py)

Here a document is always one sequence, so the document indices are 0 to n. Megatron's own reader opens these files, and
its builder writes the same bytes from the same ids. This room needs neither: no torch is imported.
"""

import array
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from tokenizer.files import InputFile, fsync_directory, part_path, write_record
from tokenizer.index import DTYPES, check_files, index_bytes, read_pointers
from tokenizer.manifest import (
    FORMAT_VERSION,
    EncodeOptions,
    ShardError,
    ShardManifest,
    dtype_for,
    fanal_version,
    is_sha256,
    read_manifest,
    shard_paths,
)

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

MAX_DOCUMENT_TOKENS = 2**31 - 1  # an int32 in the index


class ShardWriter:
    """Writes one shard: whole under its final names, or not at all.

        with ShardWriter(prefix, vocab_size=2000, tokenizer_sha256=...) as writer:
            writer.add_document(ids)
            manifest = writer.finish(domain="code", ...)

    Tokens go to PREFIX.bin.part as they come; memory holds 4 bytes per document. finish() gives the files their names,
    manifest last. Leaving the block without it removes what was written.
    Raises: ShardError if a file of that name exists, or an id or a document does not fit.
    """

    def __init__(self, prefix: str | Path, *, vocab_size: int, tokenizer_sha256: str) -> None:
        if vocab_size < 1 or not is_sha256(tokenizer_sha256):
            raise ShardError(
                f"vocab_size ({vocab_size}) must be at least 1 and tokenizer_sha256 ({tokenizer_sha256!r}) "
                "64 hexadecimal digits; take both from load_tokenizer"
            )
        self.prefix = Path(prefix)
        self.vocab_size = vocab_size
        self.tokenizer_sha256 = tokenizer_sha256
        self.dtype_name = dtype_for(vocab_size)
        self.num_tokens = 0
        self.highest_token_id = -1
        self._paths = shard_paths(prefix)
        self._lengths = array.array("i")
        self._digest = hashlib.sha256()
        self._finished = False

    def __enter__(self) -> Self:
        for path in self._paths:
            if path.exists():
                raise ShardError(
                    f"{path} exists, and a shard is never overwritten; remove {self.prefix}.* or name another prefix"
                )
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._stream = part_path(self._paths[0]).open("wb", buffering=1 << 20)
        return self

    def add_document(self, ids: np.ndarray | Sequence[int]) -> None:
        """Append one document: integer ids [number of tokens], BOS and EOS included if wanted.

        Raises: ShardError if it is empty, too long, or holds an id outside [0, vocab_size).
        """
        tokens = np.asarray(ids)
        number = len(self._lengths)
        if tokens.ndim != 1 or not 1 <= tokens.size <= MAX_DOCUMENT_TOKENS or tokens.dtype.kind not in "iu":
            raise ShardError(
                f"document {number} of {self.prefix} is {tokens.dtype} of shape {tokens.shape}, expected integers "
                f"[1 to {MAX_DOCUMENT_TOKENS} tokens]; leave out empty documents, split longer ones"
            )
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= self.vocab_size:
            bad = lowest if lowest < 0 else highest
            raise ShardError(
                f"document {number} of {self.prefix} holds id {bad}, expected 0 to vocab_size - 1 = "
                f"{self.vocab_size - 1}; encode it with the tokenizer whose vocab_size was given"
            )
        content = tokens.astype(DTYPES[self.dtype_name], copy=False).tobytes()
        self._stream.write(content)
        self._digest.update(content)
        self._lengths.append(tokens.size)
        self.num_tokens += tokens.size
        self.highest_token_id = max(self.highest_token_id, highest)

    def finish(
        self,
        *,
        domain: str | None,
        licence: str | None,
        source: str | None,
        input_files: Sequence[InputFile],
        options: EncodeOptions,
    ) -> ShardManifest:
        """Make the shard durable under its final names. Raises: ShardError if it holds no document."""
        if not self._lengths:
            raise ShardError(f"shard {self.prefix} would hold no document; give at least one")
        with self._stream:
            _sync(self._stream)
        index = index_bytes(np.frombuffer(self._lengths, dtype=np.int32), self.dtype_name)
        bin_path, idx_path, json_path = self._paths
        with part_path(idx_path).open("wb") as stream:
            stream.write(index)
            _sync(stream)
        manifest = ShardManifest(
            format_version=FORMAT_VERSION,
            tokenizer_sha256=self.tokenizer_sha256,
            vocab_size=self.vocab_size,
            dtype=self.dtype_name,
            num_documents=len(self._lengths),
            num_tokens=self.num_tokens,
            highest_token_id=self.highest_token_id,
            idx_sha256=hashlib.sha256(index).hexdigest(),
            bin_sha256=self._digest.hexdigest(),
            domain=domain,
            licence=licence,
            source=source,
            input_files=tuple(input_files),
            options=options,
            fanal_version=fanal_version(),
        )
        try:
            part_path(bin_path).rename(bin_path)
            part_path(idx_path).rename(idx_path)
            fsync_directory(self.prefix.parent)
            write_record(json_path, manifest)
        except BaseException:
            for path in self._paths:
                path.unlink(missing_ok=True)
            raise
        self._finished = True
        return manifest

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._finished:
            return
        self._stream.close()
        for path in self._paths:
            part_path(path).unlink(missing_ok=True)
        assert kind is not None, f"the writer of {self.prefix} was left without finish(); nothing was kept"


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


@dataclass(frozen=True)
class Shard:
    """An opened shard. Nothing but the manifest is in memory until tokens or document_offsets is asked for."""

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
        return np.memmap(shard_paths(self.prefix)[0], dtype=self.dtype, mode="r", shape=(self.num_tokens,))

    @cached_property
    def document_offsets(self) -> np.ndarray:
        """Token at which each document starts, last num_tokens: int64 [num_documents + 1], read-only, in memory."""
        offsets = np.empty(self.num_documents + 1, dtype=np.int64)
        offsets[:-1] = read_pointers(self.prefix, self.num_documents) // self.dtype.itemsize
        offsets[-1] = self.num_tokens
        offsets.flags.writeable = False
        return offsets

    def __reduce__(self) -> tuple:
        # A pickle (to a worker process) carries the name, never the tokens of the map.
        return open_shard, (self.prefix,)

    def document(self, number: int) -> np.ndarray:
        """The ids of one document, [its tokens], read-only."""
        start, end = self.document_offsets[number : number + 2]
        return self.tokens[start:end]


def open_shard(prefix: str | Path) -> Shard:
    """Open a shard after checks whose cost does not grow with it: sizes, header, both ends of every table, manifest.

    They find a missing, cut or mixed-up file. Changed bytes inside are found by `verify(..., deep=True)`.
    Raises: ShardError.
    """
    manifest = read_manifest(prefix)
    check_files(prefix, manifest)
    return Shard(prefix=Path(prefix), manifest=manifest)

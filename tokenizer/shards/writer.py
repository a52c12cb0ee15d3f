"""Writer of one shard: complete under its final names, or absent (layout: shard.py).

A process may be killed at any moment. What it leaves is then one of
- PREFIX.*.part: removed by the next writer of that prefix;
- PREFIX.bin, .idx, .documents.parquet or .excluded.json with a PREFIX.json.part that describes them, but no PREFIX.json: the
  kill came between two renames, and the next writer removes them too.
Files without either are somebody's data and are never touched.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from fanal.errors import UserError
from fanal.files import BlockHasher, InputFile, part_path, sync, sync_path, writing
from fanal.locks import take_lock_by_name
from fanal.new_files import open_to_lock
from fanal.records import read_record, record_bytes
from tokenizer.documents.folders import LeftOut
from tokenizer.shards import shuffle
from tokenizer.shards.document_rows import DocumentRows
from tokenizer.shards.index import write_index
from tokenizer.shards.manifest import (
    DTYPES,
    FORMAT_VERSION,
    EncodeOptions,
    Exclusion,
    ShardError,
    ShardManifest,
    documents_path,
    dtype_for,
    excluded_path,
    fanal_version,
    is_sha256,
    order_path,
    shard_paths,
    with_own_hash,
)

if TYPE_CHECKING:
    import pyarrow

    from tokenizer.shards.columns_writer import ColumnsWriter

MAX_DOCUMENT_TOKENS = 2**31 - 1  # an int32 in the index


class ShardWriter:
    """Writer of one shard.

        with ShardWriter(prefix, vocab_size=2000, tokenizer_sha256=...) as writer:
            writer.add_documents(lengths, tokens)
            manifest = writer.finish(domain="code", ...)

    Everything goes to PREFIX.*.part as it comes; memory does not grow. finish() gives the files their names, manifest last.
    Leaving the block without it removes what was written.
    Args: columns, names of the documents' columns behind those of their origin (document_columns.py); None for a shard without
    columns. Every document then has a row, added in the same order by add_rows or add_columns.
    Raises: ShardError if a shard of that name exists or is being written, or an id or a document does not fit; as `writing`.
    """

    def __init__(
        self, prefix: str | Path, *, vocab_size: int, tokenizer_sha256: str, columns: Sequence[str] | None = None
    ) -> None:
        assert vocab_size >= 1 and is_sha256(tokenizer_sha256), (
            f"vocab_size ({vocab_size}) must be at least 1 and tokenizer_sha256 ({tokenizer_sha256!r}) "
            "64 hexadecimal digits; take both from load_tokenizer"
        )
        if not Path(prefix).name or str(prefix).endswith(("/", "..", "/.")):
            raise ShardError(
                f"output prefix {str(prefix)!r} must end in a name, to which .bin, .idx and .json are added; shards/train works"
            )
        self.prefix = Path(prefix)
        self.vocab_size = vocab_size
        self.tokenizer_sha256 = tokenizer_sha256
        self.dtype_name = dtype_for(vocab_size)
        self.num_documents = 0
        self.num_tokens = 0
        self.highest_token_id = -1
        self._paths = shard_paths(prefix)
        self._lengths_part = Path(f"{prefix}.lengths.part")
        self._order_part = part_path(order_path(prefix))
        self._documents, self._excluded = documents_path(prefix), excluded_path(prefix)
        self._columns = columns
        self._columns_writer: ColumnsWriter | None = None
        self._hasher = BlockHasher()
        self._order_digest = hashlib.sha256()
        self._has_order = False
        self._exclusions: tuple[Exclusion, ...] = ()
        self._excluded_list: bytes | None = None
        self._finished = False

    @property
    def dtype(self) -> np.dtype:
        """Type of a token in the .bin."""
        return DTYPES[self.dtype_name]

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self.prefix, note="a shard exists only if its .json does")

    def __enter__(self) -> Self:
        with self._writing():
            self._open()
        return self

    def _open(self) -> None:
        self._refuse_existing()
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(Path(f"{self.prefix}.lock.part"), self.prefix)
        try:
            self._refuse_existing()  # once more: another writer may have finished just now
            self._remove_leftovers()
            bin_part = part_path(self._paths[0])
            self._stream, self._lengths, self._order = (
                path.open("xb", buffering=1 << 20) for path in (bin_part, self._lengths_part, self._order_part)
            )
            if self._columns is not None:
                from tokenizer.shards.columns_writer import ColumnsWriter  # with pyarrow, which training never needs

                self._columns_writer = ColumnsWriter(part_path(self._documents), self._columns)
        except BaseException:
            self._unlock()
            raise

    def add_document(self, ids: np.ndarray | Sequence[int]) -> None:
        """Append one document: integer ids [number of tokens], BOS and EOS included if wanted."""
        tokens = np.asarray(ids)
        assert tokens.ndim == 1 and 1 <= tokens.size <= MAX_DOCUMENT_TOKENS and tokens.dtype.kind in "iu", (
            f"document {self.num_documents} of {self.prefix} is {tokens.dtype} of shape {tokens.shape}, expected "
            f"integers [1 to {MAX_DOCUMENT_TOKENS} tokens]; leave out empty documents, split longer ones"
        )
        self.add_documents(np.array([tokens.size], dtype=np.int32), tokens)

    def add_documents(self, lengths: np.ndarray, tokens: np.ndarray, keys: np.ndarray | None = None) -> None:
        """Append documents: int32 [documents], integer ids [sum of lengths], and for a shuffled part uint64 [documents].

        Raises: ShardError if a length is below 1 or an id outside [0, vocab_size).
        """
        if not len(lengths):
            return
        if int(lengths.min()) < 1:
            number = self.num_documents + int(np.argmax(lengths < 1))
            raise ShardError(f"document {number} of {self.prefix} has no token, expected at least 1; leave it out")
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= self.vocab_size:
            at = int(np.argmax((tokens < 0) | (tokens >= self.vocab_size)))
            number = self.num_documents + int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise ShardError(
                f"document {number} of {self.prefix} holds id {int(tokens[at])}, expected 0 to vocab_size - 1 = "
                f"{self.vocab_size - 1}; encode it with the tokenizer whose vocab_size was given"
            )
        content = np.ascontiguousarray(tokens, dtype=self.dtype).data.cast("B")
        with self._writing():
            self._stream.write(content)
            self._lengths.write(lengths.astype("<i4").tobytes())
        self._hasher.update(content)
        if keys is not None:
            self._has_order = True
            content = keys.astype("<u8").tobytes()
            with self._writing():
                self._order.write(content)
            self._order_digest.update(content)
        self.num_documents += len(lengths)
        self.num_tokens += len(tokens)
        self.highest_token_id = max(self.highest_token_id, highest)

    def note_exclusions(self, exclusions: Sequence[Exclusion], excluded_list: bytes) -> None:
        """Note the documents that the shard is made without: for its manifest, and the content of PREFIX.excluded.json."""
        self._exclusions, self._excluded_list = tuple(exclusions), excluded_list

    def add_rows(self, rows: DocumentRows, paths: Sequence[str]) -> None:
        """Append rows of the documents' columns. Args: paths of the input files, by the number in each row."""
        assert self._columns_writer is not None, "this shard has no columns"
        with self._writing():
            self._columns_writer.add_rows(rows, paths)

    def add_columns(self, table: "pyarrow.Table") -> None:
        """Append the rows of a table with this shard's columns."""
        assert self._columns_writer is not None, "this shard has no columns"
        with self._writing():
            self._columns_writer.add(table)

    def finish(
        self,
        *,
        domain: str | None,
        licence: str | None,
        source: str | None,
        input_files: Sequence[InputFile],
        options: EncodeOptions,
        language: str | None = None,
        num_skipped: int = 0,
        part: str | None = None,
        part_of: str | None = None,
        num_left_out: int = 0,
        left_out: Sequence[LeftOut] = (),
        num_repeated_fields: int = 0,
        has_other_ids: bool = False,
        cut_files: Mapping[str, int] | None = None,
    ) -> ShardManifest:
        """Make the shard durable under its final names.

        Args: cut_files, of a part with columns: lines in its share of each input file that other parts read as well.
        Raises: ShardError if it holds no document and is not one part of many.
        """
        if not self.num_documents and part is None:
            raise ShardError(f"shard {self.prefix} would hold no document; give at least one")
        with self._writing():
            idx_sha256 = self._write_parts()
            columns = self._columns_writer and self._columns_writer.finish(self.num_documents, cut_files)
        unsealed = ShardManifest(
            format_version=FORMAT_VERSION,
            tokenizer_sha256=self.tokenizer_sha256,
            vocab_size=self.vocab_size,
            dtype=self.dtype_name,
            num_documents=self.num_documents,
            num_tokens=self.num_tokens,
            highest_token_id=self.highest_token_id,
            idx_sha256=idx_sha256,
            bin_block_sha256=self._hasher.hexdigests(),
            domain=domain,
            licence=licence,
            language=language,
            source=source,
            input_files=tuple(input_files),
            options=options,
            fanal_version=fanal_version(),
            num_skipped=num_skipped,
            part=part,
            part_of=part_of,
            order_sha256=self._order_digest.hexdigest() if self._has_order else None,
            num_left_out=num_left_out,
            left_out=tuple(left_out),
            num_repeated_fields=num_repeated_fields,
            has_other_ids=has_other_ids,
            documents_sha256=columns.sha256 if columns else None,
            documents_columns=columns.names if columns else (),
            exclusions=self._exclusions,
            excluded_sha256=None if self._excluded_list is None else hashlib.sha256(self._excluded_list).hexdigest(),
        )
        manifest = with_own_hash(unsealed)
        with self._writing():
            self._publish(manifest)
        return manifest

    def _write_parts(self) -> str:
        for stream in (self._stream, self._lengths, self._order):
            with stream:
                sync(stream)
        idx_part = part_path(self._paths[1])
        idx_sha256 = write_index(idx_part, self._lengths_part, self.dtype_name)
        sync_path(idx_part)
        return idx_sha256

    def _publish(self, manifest: ShardManifest) -> None:
        json_part = part_path(self._paths[2])
        if self._excluded_list is not None:
            with part_path(self._excluded).open("xb") as stream:
                stream.write(self._excluded_list)
                sync(stream)
        with json_part.open("xb") as stream:
            stream.write(record_bytes(manifest))
            sync(stream)
        sync_path(self.prefix.parent)  # the description is on disk before any name it describes
        if self._has_order:
            self._order_part.rename(order_path(self.prefix))
        else:
            self._order_part.unlink()
        for path in (*self._beside(manifest), *self._paths[:2]):
            part_path(path).rename(path)
        sync_path(self.prefix.parent)
        json_part.rename(self._paths[2])
        sync_path(self.prefix.parent)
        self._finished = True
        self._lengths_part.unlink(missing_ok=True)

    def _beside(self, manifest: ShardManifest) -> list[Path]:
        """Return the files beside .bin and .idx that the manifest gives a hash of, but for the order's."""
        hashed = ((self._documents, manifest.documents_sha256), (self._excluded, manifest.excluded_sha256))
        return [path for path, sha256 in hashed if sha256 is not None]

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for stream in (self._stream, self._lengths, self._order):
            with contextlib.suppress(OSError):  # the last bytes may not fit on the disk; that was raised already
                stream.close()
        if self._columns_writer is not None:
            self._columns_writer.close()
        if not self._finished:
            self._remove_leftovers()
        self._unlock()
        assert self._finished or kind is not None, (
            f"the writer of {self.prefix} was left without finish(); nothing was kept"
        )

    def _unlock(self) -> None:
        Path(self._lock.name).unlink(missing_ok=True)
        self._lock.close()

    def _refuse_existing(self) -> None:
        bin_path, idx_path, json_path = self._paths
        others = (order_path(self.prefix), self._documents, self._excluded)
        existing = [path for path in (json_path, bin_path, idx_path, *others) if path.exists()]
        if json_path in existing:
            raise ShardError(
                f"{json_path} exists, and a shard is never overwritten; remove {self.prefix}.* or name another prefix"
            )
        if existing and not self._is_unfinished():
            raise ShardError(
                f"{existing[0]} exists without a manifest, and is not overwritten: `fanal tokenizer adopt {self.prefix} "
                "--tokenizer DIR` makes one; or remove it, or name another prefix"
            )

    def _is_unfinished(self) -> bool:
        """Whether .bin and .idx were renamed by a killed writer: its description lies beside them and fits."""
        try:
            manifest = read_record(ShardManifest, part_path(self._paths[2]), remedy="")
        except UserError:  # not a PassingError: the description is there, and may say that they are
            return False
        bin_path = self._paths[0]
        if manifest.dtype not in DTYPES:
            return False
        wanted = manifest.num_tokens * DTYPES[manifest.dtype].itemsize
        return not bin_path.exists() or bin_path.stat().st_size == wanted

    def _remove_leftovers(self) -> None:
        """Remove unfinished files, the description last: without it nobody could tell whose the rest is."""
        json_part = part_path(self._paths[2])
        if json_part.exists() and not self._paths[2].exists():
            for path in (order_path(self.prefix), self._documents, self._excluded, *self._paths[:2]):
                path.unlink(missing_ok=True)
        named = (self._documents, self._excluded, *self._paths)
        parts = [self._lengths_part, self._order_part, *map(part_path, named)]
        for path in parts:
            path.unlink(missing_ok=True)
        shuffle.remove_leftovers(self.prefix)


def _lock(path: Path, prefix: Path) -> FileIO:
    """Lock a prefix for one writer: a second one would overwrite what the first has written. Raises: ShardError."""
    stream = open_to_lock(path)
    if not take_lock_by_name(path, stream.fileno()):
        stream.close()
        raise ShardError(f"shard {prefix} is being written by another process; wait for it, or name another prefix")
    return stream

"""Merge of parts into the shard that one machine would have written: the same .bin, .idx and .json, byte for byte."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fanal.files import InputFile, block_sha256_of_file, sha256_of_file
from fanal.progress import Progress
from tokenizer.documents.blocks import Part
from tokenizer.shards.index import check_files, document_batches, read_lengths
from tokenizer.shards.labels import SEVERAL_LANGUAGES, in_words
from tokenizer.shards.manifest import (
    DTYPES,
    DamagedShardError,
    ShardError,
    ShardManifest,
    documents_path,
    order_path,
    read_manifest,
    shard_paths,
)
from tokenizer.shards.shard import ShardWriter
from tokenizer.shards.shuffle import gather

if TYPE_CHECKING:
    import pyarrow

    from tokenizer.encoding.merged_columns import PartColumns

BATCH_TOKENS = 1 << 22
NO_FILE = "no file"
SAME_IN_ALL = ("tokenizer_sha256", "vocab_size", "dtype", "source", "options", "fanal_version", "part_of")


@dataclass(frozen=True, kw_only=True)
class PartShard:
    """One part of an encode run, its files checked."""

    prefix: Path
    part: Part
    manifest: ShardManifest

    def tokens(self) -> np.ndarray:
        """Return all tokens of the part, memory-mapped."""
        dtype = DTYPES[self.manifest.dtype]
        if not self.manifest.num_tokens:
            return np.empty(0, dtype)
        return np.memmap(shard_paths(self.prefix)[0], dtype, mode="r")


def merge(part_prefixes: Sequence[str | Path], output_prefix: str | Path) -> ShardManifest:
    """Join all parts of one encode run, given in any order.

    Raises: ShardError if a part is missing, given twice or from another run; DamagedShardError; UserError.
    """
    parts = _open_parts(part_prefixes)
    first = parts[0].manifest
    columns = _open_columns(parts)
    writer = ShardWriter(
        output_prefix,
        vocab_size=first.vocab_size,
        tokenizer_sha256=first.tokenizer_sha256,
        columns=None if columns[0] is None else columns[0].names,
    )
    in_order = _shuffled if first.options.shuffle_seed is not None else _in_turn
    total = sum(part.manifest.num_tokens for part in parts) * writer.dtype.itemsize
    with writer, Progress(f"merge {Path(output_prefix).name}", total) as progress:
        for lengths, tokens, rows in in_order(parts, columns):
            writer.add_documents(lengths, tokens)
            if rows is not None:
                writer.add_columns(rows)
            progress.update(writer.num_tokens * writer.dtype.itemsize)
        return writer.finish(
            domain=_common("domain", parts),
            licence=_common("licence", parts),
            language=_common("language", parts),
            source=first.source,
            input_files=_joined_inputs(parts),
            options=first.options,
            num_skipped=sum(part.manifest.num_skipped for part in parts),
            num_left_out=max(part.manifest.num_left_out for part in parts),
            left_out=max((part.manifest.left_out for part in parts), key=len),
            num_repeated_fields=sum(part.manifest.num_repeated_fields for part in parts),
        )


def _open_parts(prefixes: Sequence[str | Path]) -> list[PartShard]:
    """Open all parts, in the order of their numbers."""
    parts = []
    for prefix in prefixes:
        manifest = read_manifest(prefix, may_be_empty=True)
        if manifest.part is None:
            raise ShardError(f"{prefix} is a complete shard, expected one written with --part I/N; leave it out")
        number, count = map(int, manifest.part.split("/"))
        check_files(prefix, manifest)
        _check_bytes(Path(prefix), manifest)
        parts.append(PartShard(prefix=Path(prefix), part=Part(number=number, count=count), manifest=manifest))
    parts.sort(key=lambda part: part.part.number)
    count = parts[0].part.count
    found = [str(part.part) for part in parts]
    wanted = [f"{number}/{count}" for number in range(1, count + 1)]
    if found != wanted:
        missing = [name for name in wanted if name not in found]
        raise ShardError(
            f"the parts given are {', '.join(found)}, expected each of 1/{count} to {count}/{count} once"
            + (f"; missing: {', '.join(missing)}" if missing else "")
        )
    for part in parts[1:]:
        for name in SAME_IN_ALL:
            here, there = getattr(part.manifest, name), getattr(parts[0].manifest, name)
            if here != there and name == "part_of":
                raise ShardError(
                    f"{part.prefix} and {parts[0].prefix} were not given the same --input (files, sizes, order and spelling of "
                    "paths) and options: they are parts of different runs; encode the parts again with the same ones"
                )
            if here != there:
                raise ShardError(
                    f"{part.prefix} has {name} {here}, but {parts[0].prefix} has {there}: they are parts of different runs; "
                    "encode the parts again with the same options"
                )
    return parts


def _open_columns(parts: Sequence[PartShard]) -> "Sequence[PartColumns | None]":
    """Open the columns of all parts; None for each if they were written without. Raises: ShardError, DamagedShardError."""
    without = [part.prefix for part in parts if part.manifest.documents_sha256 is None]
    if len(without) == len(parts):
        return [None] * len(parts)
    if without:
        raise ShardError(
            f"{without[0]} has no columns of its documents, and other parts have; encode it again as they were"
        )
    from tokenizer.encoding.merged_columns import open_part_columns  # with pyarrow

    return open_part_columns([(part.prefix, part.manifest) for part in parts])


def _check_bytes(prefix: Path, manifest: ShardManifest) -> None:
    """Check a part's bytes against its manifest: a merge writes new hashes, so it must not bless changed bytes."""
    bin_path, idx_path, _ = shard_paths(prefix)
    checks = [
        (bin_path, block_sha256_of_file(bin_path), manifest.bin_block_sha256),
        (idx_path, sha256_of_file(idx_path), manifest.idx_sha256),
    ]
    if manifest.num_documents and manifest.options.shuffle_seed is not None:
        keys = order_path(prefix)
        checks.append((keys, sha256_of_file(keys) if keys.is_file() else NO_FILE, manifest.order_sha256))
    if manifest.documents_sha256 is not None:
        columns = documents_path(prefix)
        checks.append((columns, sha256_of_file(columns) if columns.is_file() else NO_FILE, manifest.documents_sha256))
    for path, found, expected in checks:
        if found != expected:
            error = ShardError if found == NO_FILE else DamagedShardError
            raise error(f"{path} has sha256 {found}, expected {expected}; encode this part again")


Columns = Sequence["PartColumns | None"]
Batch = tuple[np.ndarray, np.ndarray, "pyarrow.Table | None"]
"""Lengths, tokens and rows of the columns of some documents."""


def _in_turn(parts: Sequence[PartShard], columns: Columns) -> Iterator[Batch]:
    """Yield the documents of one part after the other."""
    for part, rows in zip(parts, columns, strict=True):
        lengths = read_lengths(part.prefix, part.manifest.num_documents)
        tokens = part.tokens()
        for begin, end, held in document_batches(lengths, BATCH_TOKENS):
            yield lengths[begin:end], tokens[held], None if rows is None else rows.take(end - begin)


def _shuffled(parts: Sequence[PartShard], columns: Columns) -> Iterator[Batch]:
    """Yield the documents in the order of the keys over all parts; each part is in that order by itself."""
    heads = [_Cursor(part, rows) for part, rows in zip(parts, columns, strict=True) if part.manifest.num_documents]
    while open_heads := [head for head in heads if head.left]:
        # Every key up to the lowest "last key of the next batch" is in the batches that are looked at.
        bound = min(head.bound(BATCH_TOKENS // len(open_heads)) for head in open_heads)
        taken = [head.take(bound) for head in open_heads]
        keys = np.concatenate([keys for keys, *_ in taken])
        lengths = np.concatenate([lengths for _, lengths, *_ in taken])
        tokens = np.concatenate([tokens for _, _, tokens, _ in taken])
        order = np.argsort(keys, kind="stable")
        yield lengths[order], gather(tokens, lengths, order), _joined_rows([rows for *_, rows in taken], order)


def _joined_rows(tables: "Sequence[pyarrow.Table | None]", order: np.ndarray) -> "pyarrow.Table | None":
    """Return the rows of all tables in another order; None for parts without columns."""
    found = [table for table in tables if table is not None]
    if not found:
        return None
    import pyarrow

    return pyarrow.concat_tables(found).combine_chunks().take(order)


class _Cursor:
    """Position up to which a shuffled part has been merged."""

    def __init__(self, part: PartShard, columns: "PartColumns | None") -> None:
        self._keys = np.memmap(order_path(part.prefix), "<u8", mode="r")
        self._lengths = read_lengths(part.prefix, part.manifest.num_documents)
        self._ends = np.cumsum(self._lengths, dtype=np.int64)
        self._tokens = part.tokens()
        self._columns = columns
        self._document, self._token = 0, 0

    @property
    def left(self) -> int:
        """Number of documents not yet taken."""
        return len(self._keys) - self._document

    def bound(self, num_tokens: int) -> int:
        """Return the last key of a batch of about num_tokens tokens, one document at least."""
        end = int(np.searchsorted(self._ends, self._token + num_tokens, side="right"))
        return int(self._keys[max(self._document, end - 1)])

    def take(self, bound: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, "pyarrow.Table | None"]:
        """Take the documents with keys up to and including the bound; returns their (keys, lengths, tokens, rows)."""
        end = int(np.searchsorted(self._keys, np.uint64(bound), side="right"))
        lengths = self._lengths[self._document : end]
        token_end = int(self._ends[end - 1]) if end else 0
        rows = None if self._columns is None else self._columns.take(end - self._document)
        taken = self._keys[self._document : end], lengths, self._tokens[self._token : token_end], rows
        self._document, self._token = end, token_end
        return taken


def _common(name: str, parts: Sequence[PartShard]) -> str | None:
    """Return the label of all parts that hold documents. Raises: ShardError if they differ (languages become "mul")."""
    found = {getattr(part.manifest, name): part.prefix for part in parts if part.manifest.num_documents}
    if len(found) > 1 and name == "language":
        return SEVERAL_LANGUAGES
    if len(found) > 1:
        shown = ", ".join(f"{in_words(value)} in {prefix}" for value, prefix in found.items())
        raise ShardError(f"the parts differ in {name}: {shown}; a shard has one, encode them with --{name} NAME")
    return next(iter(found), None)


def _joined_inputs(parts: Sequence[PartShard]) -> list[InputFile]:
    """Return each input file once, with all its blocks. Raises: ShardError if the parts did not see the same file."""
    joined: dict[str, InputFile] = {}
    for part in parts:
        for file in part.manifest.input_files or ():
            before = joined.get(file.path)
            if before is None:
                joined[file.path] = file
            elif before.bytes == file.bytes and len(before.block_sha256) == file.first_block:
                joined[file.path] = replace(before, block_sha256=before.block_sha256 + file.block_sha256)
            else:
                raise ShardError(
                    f"{part.prefix} read {file.path} of {file.bytes} bytes, the parts before it one of {before.bytes} bytes; "
                    "encode the parts again from the same file"
                )
    return list(joined.values())

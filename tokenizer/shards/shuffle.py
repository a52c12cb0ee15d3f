"""Random order of documents with bounded memory: the order of a 64-bit key per document.

The key is a hash of the seed and of the document's place in the input, so that the order is the same for any number of
workers, and parts that were encoded on many machines merge into it. Equal keys keep the order of the input.

How: documents are dealt to files by the top bits of their keys; then one file after the other is sorted in memory.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fanal.files import writing
from fanal.splitmix import GOLDEN, mix64
from tokenizer.shards.document_rows import DocumentRows
from tokenizer.shards.index import document_batches, read_array

BUCKET_BYTES = 64 << 20
MAX_BUCKETS = 256
WRITE_BUFFER_BYTES = 1 << 18
BATCH_TOKENS = 1 << 22
HEAD = np.dtype([("key", "<u8"), ("length", "<i4"), ("row_bytes", "<i4")])


def document_keys(seed: int, file_number: int, positions: np.ndarray) -> np.ndarray:
    """Return the keys of documents, uint64 [documents], from their places in a file (int64 [documents]): SplitMix64
    over seed, file, place.

    Args: seed and file_number from 0 on, below 2**64.
    """
    with np.errstate(over="ignore"):
        state = mix64(np.array([seed], dtype=np.uint64) + GOLDEN)
        state = mix64(state + np.uint64(file_number) + GOLDEN)
        return mix64(state + positions.astype(np.uint64) * GOLDEN)


def gather(tokens: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the tokens of documents that lie one after the other, in another order of the documents."""
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    taken = lengths[order].astype(np.int64)
    new_starts = np.cumsum(taken) - taken
    return tokens[np.repeat(starts[order] - new_starts, taken) + np.arange(int(taken.sum()))]


class Shuffler:
    """Sorter that takes documents in any order and gives them back in the order of their keys.

        with Shuffler(prefix, dtype, expected_bytes) as shuffler:
            shuffler.add(keys, lengths, tokens)
            for keys, lengths, tokens, rows in shuffler.in_order(): ...

    Args: temporary files are named PREFIX.shuffle-*.part; dtype is that of a token; expected_bytes, of all tokens
    together, sets the number of files, nothing else. Rows of columns go with their documents, if they are added.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, expected_bytes: int) -> None:
        self._prefix = prefix
        self._dtype = dtype
        wanted = max(1, -(-expected_bytes // BUCKET_BYTES))
        self._bits = min(int(wanted - 1).bit_length(), MAX_BUCKETS.bit_length() - 1)
        self._files: list[tuple[BinaryIO, ...]] = []

    def __enter__(self) -> "Shuffler":
        with writing(self._prefix):
            self._prefix.parent.mkdir(parents=True, exist_ok=True)
            for bucket in range(1 << self._bits):
                self._files.append(tuple(path.open("xb", WRITE_BUFFER_BYTES) for path in self._paths(bucket)))
        return self

    def add(self, keys: np.ndarray, lengths: np.ndarray, tokens: np.ndarray, rows: DocumentRows | None = None) -> None:
        """Add documents one after the other: uint64 [documents], int32 [documents], tokens [sum of lengths]."""
        order = np.argsort(keys, kind="stable")
        row_lengths = np.zeros(len(keys), np.int32) if rows is None else rows.lengths
        data = np.empty(0, np.uint8) if rows is None else gather(rows.data, row_lengths, order)
        keys, tokens, lengths = keys[order], gather(tokens, lengths, order), lengths[order]
        row_lengths = row_lengths[order]
        bucket_of = keys >> np.uint64(64 - self._bits) if self._bits else np.zeros(len(keys), np.uint64)
        cuts = np.searchsorted(bucket_of, np.arange((1 << self._bits) + 1, dtype=np.uint64))
        token_cuts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[cuts]
        row_cuts = np.concatenate([[0], np.cumsum(row_lengths, dtype=np.int64)])[cuts]
        for bucket in np.unique(bucket_of).astype(int):
            documents = slice(cuts[bucket], cuts[bucket + 1])
            heads = np.empty(documents.stop - documents.start, HEAD)
            heads["key"], heads["length"], heads["row_bytes"] = (
                keys[documents],
                lengths[documents],
                row_lengths[documents],
            )
            with writing(self._prefix):
                self._files[bucket][0].write(heads.tobytes())
                self._files[bucket][1].write(tokens[token_cuts[bucket] : token_cuts[bucket + 1]].tobytes())
                self._files[bucket][2].write(data[row_cuts[bucket] : row_cuts[bucket + 1]].tobytes())

    def in_order(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, DocumentRows]]:
        """Yield (keys, lengths, tokens, rows) of all documents, about BATCH_TOKENS tokens and bytes of rows at a time; deletes the
        files on the way. Rows are empty if none were added."""
        for bucket, files in enumerate(self._files):
            with writing(self._prefix):
                for file in files:
                    file.close()
            heads_path, tokens_path, rows_path = self._paths(bucket)
            num_heads = heads_path.stat().st_size // HEAD.itemsize
            heads = read_array(heads_path, HEAD, count=num_heads)
            if len(heads):
                tokens = np.memmap(tokens_path, self._dtype, mode="r")
                has_rows = rows_path.stat().st_size > 0
                data = np.memmap(rows_path, np.uint8, mode="r") if has_rows else np.empty(0, np.uint8)
                yield from _sorted_batches(heads, tokens, data)
                del tokens, data
            for path in (heads_path, tokens_path, rows_path):
                path.unlink()

    def __exit__(self, *_: object) -> None:
        for files in self._files:
            for file in files:
                with contextlib.suppress(OSError):  # the last bytes may not fit on the disk; that was raised already
                    file.close()
        remove_leftovers(self._prefix)

    def _paths(self, bucket: int) -> list[Path]:
        stem = f"{self._prefix.name}.shuffle-{bucket:03}"
        return [self._prefix.with_name(f"{stem}-{what}.part") for what in ("heads", "tokens", "rows")]


def remove_leftovers(prefix: Path) -> None:
    """Delete the files that a killed shuffle left."""
    name = prefix.name + ".shuffle-"
    if prefix.parent.is_dir():
        for path in prefix.parent.iterdir():
            if path.name.startswith(name) and path.name.endswith(".part"):
                path.unlink(missing_ok=True)


def _sorted_batches(
    heads: np.ndarray, tokens: np.ndarray, data: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, DocumentRows]]:
    order = np.argsort(heads["key"], kind="stable")
    lengths, row_lengths = heads["length"], heads["row_bytes"]
    for begin, end, _ in document_batches((lengths.astype(np.int64) + row_lengths)[order], BATCH_TOKENS):
        chosen = order[begin:end]
        rows = DocumentRows(lengths=row_lengths[chosen], data=gather(data, row_lengths, chosen))
        yield heads["key"][chosen], lengths[chosen], gather(tokens, lengths, chosen), rows

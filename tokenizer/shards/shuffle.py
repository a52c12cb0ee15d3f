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
from tokenizer.shards.index import document_batches, read_array

BUCKET_BYTES = 64 << 20
MAX_BUCKETS = 256
WRITE_BUFFER_BYTES = 1 << 18
BATCH_TOKENS = 1 << 22
KEY_AND_LENGTH = np.dtype([("key", "<u8"), ("length", "<i4")])


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
            for keys, lengths, tokens in shuffler.in_order(): ...

    Args: temporary files are named PREFIX.shuffle-*.part; dtype is that of a token; expected_bytes, of all tokens
    together, sets the number of files, nothing else.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, expected_bytes: int) -> None:
        self._prefix = prefix
        self._dtype = dtype
        wanted = max(1, -(-expected_bytes // BUCKET_BYTES))
        self._bits = min(int(wanted - 1).bit_length(), MAX_BUCKETS.bit_length() - 1)
        self._files: list[tuple[BinaryIO, BinaryIO]] = []

    def __enter__(self) -> "Shuffler":
        with writing(self._prefix):
            self._prefix.parent.mkdir(parents=True, exist_ok=True)
            for bucket in range(1 << self._bits):
                paths = self._paths(bucket)
                self._files.append((paths[0].open("xb", WRITE_BUFFER_BYTES), paths[1].open("xb", WRITE_BUFFER_BYTES)))
        return self

    def add(self, keys: np.ndarray, lengths: np.ndarray, tokens: np.ndarray) -> None:
        """Add documents one after the other: uint64 [documents], int32 [documents], tokens [sum of lengths]."""
        order = np.argsort(keys, kind="stable")
        keys, tokens, lengths = keys[order], gather(tokens, lengths, order), lengths[order]
        bucket_of = keys >> np.uint64(64 - self._bits) if self._bits else np.zeros(len(keys), np.uint64)
        cuts = np.searchsorted(bucket_of, np.arange((1 << self._bits) + 1, dtype=np.uint64))
        token_cuts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[cuts]
        for bucket in np.unique(bucket_of).astype(int):
            documents = slice(cuts[bucket], cuts[bucket + 1])
            heads = np.empty(documents.stop - documents.start, KEY_AND_LENGTH)
            heads["key"], heads["length"] = keys[documents], lengths[documents]
            with writing(self._prefix):
                self._files[bucket][0].write(heads.tobytes())
                self._files[bucket][1].write(tokens[token_cuts[bucket] : token_cuts[bucket + 1]].tobytes())

    def in_order(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (keys, lengths, tokens) of all documents, about BATCH_TOKENS at a time; deletes the files on the way."""
        for bucket, files in enumerate(self._files):
            with writing(self._prefix):
                for file in files:
                    file.close()
            heads_path, tokens_path = self._paths(bucket)
            num_heads = heads_path.stat().st_size // KEY_AND_LENGTH.itemsize
            heads = read_array(heads_path, KEY_AND_LENGTH, count=num_heads)
            if len(heads):
                tokens = np.memmap(tokens_path, self._dtype, mode="r")
                yield from _sorted_batches(heads, tokens)
                del tokens
            heads_path.unlink()
            tokens_path.unlink()

    def __exit__(self, *_: object) -> None:
        for files in self._files:
            for file in files:
                with contextlib.suppress(OSError):  # the last bytes may not fit on the disk; that was raised already
                    file.close()
        remove_leftovers(self._prefix)

    def _paths(self, bucket: int) -> tuple[Path, Path]:
        stem = f"{self._prefix.name}.shuffle-{bucket:03}"
        return self._prefix.with_name(f"{stem}-heads.part"), self._prefix.with_name(f"{stem}-tokens.part")


def remove_leftovers(prefix: Path) -> None:
    """Delete the files that a killed shuffle left."""
    name = prefix.name + ".shuffle-"
    if prefix.parent.is_dir():
        for path in prefix.parent.iterdir():
            if path.name.startswith(name) and path.name.endswith(".part"):
                path.unlink(missing_ok=True)


def _sorted_batches(heads: np.ndarray, tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    order = np.argsort(heads["key"], kind="stable")
    lengths = heads["length"]
    for begin, end, _ in document_batches(lengths[order], BATCH_TOKENS):
        chosen = order[begin:end]
        yield heads["key"][chosen], lengths[chosen], gather(tokens, lengths, chosen)

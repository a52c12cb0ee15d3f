"""The .idx file of a shard: written piece by piece, and checked at its ends (layout: shard.py)."""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fanal.errors import user_path
from fanal.files import reading
from tokenizer.shards.manifest import DTYPES, DamagedShardError, ShardError, ShardManifest, shard_paths

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, document indices: 34 bytes
DTYPE_CODES = {"uint16": 8, "int32": 4}
PIECE_DOCUMENTS = 1 << 20


def write_index(path: Path, lengths_path: Path, dtype_name: str) -> str:
    """Write the .idx of documents whose lengths (int32, in tokens) lie in a file; memory does not grow with them.

    Returns: the SHA-256 of what was written. The file is not yet synced.
    """
    num_documents = lengths_path.stat().st_size // 4
    itemsize = DTYPES[dtype_name].itemsize
    digest = hashlib.sha256()
    with path.open("xb") as stream:

        def write(content: bytes) -> None:
            stream.write(content)
            digest.update(content)

        write(HEADER.pack(MAGIC, 1, DTYPE_CODES[dtype_name], num_documents, num_documents + 1))
        for lengths in _pieces(lengths_path):
            write(lengths.tobytes())
        start = 0
        for lengths in _pieces(lengths_path):
            ends = np.cumsum(lengths, dtype=np.int64) * itemsize + start
            write(np.concatenate([[start], ends[:-1]]).astype("<i8").tobytes())
            start = int(ends[-1])
        for first in range(0, num_documents + 1, PIECE_DOCUMENTS):
            write(np.arange(first, min(first + PIECE_DOCUMENTS, num_documents + 1), dtype="<i8").tobytes())
    return digest.hexdigest()


def _pieces(lengths_path: Path) -> Iterator[np.ndarray]:
    with lengths_path.open("rb") as stream:
        while content := stream.read(4 * PIECE_DOCUMENTS):
            yield np.frombuffer(content, dtype="<i4")


def document_batches(lengths: np.ndarray, num_tokens: int) -> Iterator[tuple[int, int, slice]]:
    """Yield (first document, one past the last, their tokens) of batches of up to num_tokens tokens, one document at least.

    Args: lengths, int [documents], of documents that lie one after the other.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    begin, given = 0, 0
    while begin < len(lengths):
        end = max(begin + 1, int(np.searchsorted(ends, given + num_tokens, side="right")))
        yield begin, end, slice(given, int(ends[end - 1]))
        begin, given = end, int(ends[end - 1])


def read_array(path: Path, dtype: np.dtype | str, *, count: int, offset: int = 0) -> np.ndarray:
    """Read [count] values of a file, fewer if it ends before. Raises: as ``reading``; np.fromfile would give less, or what
    memory held."""
    array = np.empty(count, dtype)
    with reading(path), path.open("rb") as stream:
        stream.seek(offset)
        num_bytes = stream.readinto(array.view(np.uint8).data)
    return array[: num_bytes // array.itemsize]


def read_lengths(prefix: str | Path, num_documents: int) -> np.ndarray:
    """Read the number of tokens in each document: int32 [num_documents]."""
    return read_array(shard_paths(prefix)[1], "<i4", count=num_documents, offset=HEADER.size)


def read_pointers(prefix: str | Path, num_documents: int) -> np.ndarray:
    """Read the byte at which each document starts in the .bin: int64 [num_documents].

    Read rather than mapped: the table is never aligned to 8 bytes, so every search of a map would copy it.
    """
    offset = HEADER.size + 4 * num_documents
    return read_array(shard_paths(prefix)[1], "<i8", count=num_documents, offset=offset)


def read_document_indices(prefix: str | Path, num_sequences: int, num_documents: int | None = None) -> np.ndarray:
    """Read the number of the first sequence of each document, and the number of sequences: int64 [num_documents + 1].

    Args: num_documents, where other than the number of sequences, as another writer may have it.
    """
    offset = HEADER.size + 12 * num_sequences
    num_documents = num_sequences if num_documents is None else num_documents
    return read_array(shard_paths(prefix)[1], "<i8", count=num_documents + 1, offset=offset)


def map_tables(prefix: str | Path, num_documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Map lengths and pointers, without reading them, for a search: int32 and int64 [num_documents], not aligned."""
    # A plain view: a memmap makes an object of its class for every number that is read.
    path = shard_paths(prefix)[1]
    with user_path(path):
        mapped = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    pointers_at = HEADER.size + 4 * num_documents
    lengths = mapped[HEADER.size : pointers_at].view("<i4")
    return lengths, mapped[pointers_at : pointers_at + 8 * num_documents].view("<i8")


def check_files(prefix: str | Path, manifest: ShardManifest) -> None:
    """Compare both file sizes, the header and both ends of every table with the manifest; the cost is constant.

    Raises: ShardError.
    """
    bin_path, idx_path, json_path = shard_paths(prefix)
    n, itemsize = manifest.num_documents, DTYPES[manifest.dtype].itemsize
    bin_bytes = manifest.num_tokens * itemsize
    _expect_size(bin_path, bin_bytes, f"{manifest.num_tokens} tokens of {itemsize} bytes")
    _expect_size(idx_path, HEADER.size + 12 * n + 8 * (n + 1), f"{n} documents")
    pointers_at, documents_at = HEADER.size + 4 * n, HEADER.size + 12 * n
    with reading(idx_path), idx_path.open("rb") as stream:

        def read(offset: int, layout: str) -> int:
            stream.seek(offset)
            return struct.unpack(layout, stream.read(struct.calcsize(layout)))[0]

        header = HEADER.unpack(stream.read(HEADER.size))
        checks: list[tuple[str, object, object]] = [
            ("header", header, (MAGIC, 1, DTYPE_CODES[manifest.dtype], n, n + 1)),
            ("first document index", read(documents_at, "<q"), 0),
            ("last document index", read(documents_at + 8 * n, "<q"), n),
        ]
        if n:
            first_length, last_length = read(HEADER.size, "<i"), read(pointers_at - 4, "<i")
            last_end = read(documents_at - 8, "<q") + last_length * itemsize
            checks += [
                ("first byte offset", read(pointers_at, "<q"), 0),
                ("end of the last document in bytes", last_end, bin_bytes),
            ]
        if n > 1:
            checks.append(("second byte offset", read(pointers_at + 8, "<q"), first_length * itemsize))
    for name, found, expected in checks:
        if found != expected:
            raise DamagedShardError(
                f"{idx_path}: {name} is {found}, expected {expected} by {json_path.name}; "
                "copy or encode the shard again"
            )


def _expect_size(path: Path, expected: int, reason: str) -> None:
    with user_path(path):
        found = path.stat().st_size if path.exists() else None
    if found != expected:
        state = "does not exist" if found is None else f"has {found} bytes"
        error = ShardError if found is None else DamagedShardError
        raise error(f"{path} {state}, expected {expected} bytes ({reason}); copy or encode the shard again")

"""The .idx file of a shard: written whole, and checked at its ends (layout: shards.py)."""

import struct
from pathlib import Path

import numpy as np

from tokenizer.manifest import ShardError, ShardManifest, shard_paths

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, document indices: 34 bytes
DTYPES = {"uint16": np.dtype("<u2"), "int32": np.dtype("<i4")}
DTYPE_CODES = {"uint16": 8, "int32": 4}


def index_bytes(lengths: np.ndarray, dtype_name: str) -> bytes:
    """The whole .idx of documents of these lengths (int32 [documents], in tokens)."""
    num_documents = len(lengths)
    ends = np.cumsum(lengths, dtype=np.int64) * DTYPES[dtype_name].itemsize
    pointers = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return b"".join(
        [
            HEADER.pack(MAGIC, 1, DTYPE_CODES[dtype_name], num_documents, num_documents + 1),
            lengths.astype("<i4").tobytes(),
            pointers.astype("<i8").tobytes(),
            np.arange(num_documents + 1, dtype="<i8").tobytes(),
        ]
    )


def read_lengths(prefix: str | Path, num_documents: int) -> np.ndarray:
    """Tokens in each document: int32 [num_documents]."""
    return np.fromfile(shard_paths(prefix)[1], dtype="<i4", count=num_documents, offset=HEADER.size)


def read_pointers(prefix: str | Path, num_documents: int) -> np.ndarray:
    """Byte at which each document starts in the .bin: int64 [num_documents].

    Read rather than mapped: the table is never aligned to 8 bytes, so every search of a map would copy it.
    """
    offset = HEADER.size + 4 * num_documents
    return np.fromfile(shard_paths(prefix)[1], dtype="<i8", count=num_documents, offset=offset)


def check_files(prefix: str | Path, manifest: ShardManifest) -> None:
    """Hold both file sizes, the header and both ends of every table against the manifest; the cost is constant.

    Raises: ShardError.
    """
    bin_path, idx_path, json_path = shard_paths(prefix)
    n, itemsize = manifest.num_documents, DTYPES[manifest.dtype].itemsize
    bin_bytes = manifest.num_tokens * itemsize
    _expect_size(bin_path, bin_bytes, f"{manifest.num_tokens} tokens of {itemsize} bytes")
    _expect_size(idx_path, HEADER.size + 12 * n + 8 * (n + 1), f"{n} documents")
    pointers_at, documents_at = HEADER.size + 4 * n, HEADER.size + 12 * n
    with idx_path.open("rb") as stream:

        def read(offset: int, layout: str) -> int:
            stream.seek(offset)
            return struct.unpack(layout, stream.read(struct.calcsize(layout)))[0]

        header = HEADER.unpack(stream.read(HEADER.size))
        first_length, last_length = read(HEADER.size, "<i"), read(pointers_at - 4, "<i")
        last_end = read(documents_at - 8, "<q") + last_length * itemsize
        checks = [
            ("header", header, (MAGIC, 1, DTYPE_CODES[manifest.dtype], n, n + 1)),
            ("first byte offset", read(pointers_at, "<q"), 0),
            ("end of the last document in bytes", last_end, bin_bytes),
            ("first document index", read(documents_at, "<q"), 0),
            ("last document index", read(documents_at + 8 * n, "<q"), n),
        ]
        if n > 1:
            checks.append(("second byte offset", read(pointers_at + 8, "<q"), first_length * itemsize))
    for name, found, expected in checks:
        if found != expected:
            raise ShardError(
                f"{idx_path}: {name} is {found}, expected {expected} by {json_path.name}; "
                "copy or encode the shard again"
            )


def _expect_size(path: Path, expected: int, reason: str) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != expected:
        state = "does not exist" if found is None else f"has {found} bytes"
        raise ShardError(f"{path} {state}, expected {expected} bytes ({reason}); copy or encode the shard again")

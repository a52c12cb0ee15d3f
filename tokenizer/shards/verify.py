"""What is wrong with the files of a shard, by its manifest: each function finds one kind."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fanal.errors import DamageError, UserError
from fanal.files import HASH_BLOCK_BYTES, block_sha256_of_file, reading, sha256_of_file
from tokenizer.shards.excluded_list import excluded_problem
from tokenizer.shards.index import read_document_indices, read_lengths, read_pointers
from tokenizer.shards.manifest import (
    DamagedShardError,
    ShardManifest,
    documents_path,
    order_path,
)
from tokenizer.shards.shard import Shard, shard_paths

BLOCK_TOKENS = 1 << 22
REMEDY = "copy it again from an intact copy, or encode it again"


def columns_problems(prefix: str | Path, manifest: ShardManifest, *, deep: bool) -> list[str]:
    """Return what is wrong with the columns of the documents. Deep: all bytes, else the footer. Raises: PassingError."""
    path = documents_path(prefix)
    if manifest.documents_sha256 is None:
        there = f"{path} is there, and the shard's manifest knows of no columns: it is another shard's; remove it"
        return [there] if path.exists() else []
    from tokenizer.shards.document_columns import open_columns  # with pyarrow, which takes its time

    try:
        columns = open_columns(prefix, manifest)
        if deep and columns is not None:
            columns.check_hash()
    except (UserError, DamageError) as error:
        return [str(error)]
    return []


def deep_problems(shard: Shard) -> Iterator[str]:
    """Hash all files, and compare tokens and tables with the manifest (a hash alone would bless a bad writer)."""
    yield from _index_problems(shard)
    yield from _block_problems(shard)
    yield from _id_problems(shard)
    path = order_path(shard.prefix)
    if shard.manifest.order_sha256 is not None:
        found = sha256_of_file(path) if path.is_file() else "no file"
        if found != shard.manifest.order_sha256:
            yield f"{path} has sha256 {found}, expected {shard.manifest.order_sha256}; encode this part again"
    if (problem := excluded_problem(shard.prefix, shard.manifest)) is not None:
        yield problem


def _index_problems(shard: Shard) -> Iterator[str]:
    path = shard_paths(shard.prefix)[1]
    if (problem := index_problem(shard, sha256_of_file(path))) is not None:
        yield problem
    n = shard.num_documents
    lengths = read_lengths(shard.prefix, n).astype(np.int64)
    pointers = read_pointers(shard.prefix, n)
    ends = pointers + lengths * shard.dtype.itemsize
    broken = np.flatnonzero((lengths < 1) | (ends != np.append(pointers[1:], shard.num_tokens * shard.dtype.itemsize)))
    if len(broken):
        yield (
            f"{path} holds lengths that do not lead from one byte offset to the next, in {_documents(broken)}; the shard's "
            f"document boundaries are wrong there, {REMEDY}"
        )
    wrong = np.flatnonzero(read_document_indices(shard.prefix, n) != np.arange(n + 1))
    if len(wrong):
        yield f"{path} holds document indices other than 0 to {n}, first at {wrong[0]}; {REMEDY}"


def _block_problems(shard: Shard) -> Iterator[str]:
    for number, found in enumerate(block_sha256_of_file(shard_paths(shard.prefix)[0])):
        if (problem := block_problem(shard, number, found)) is not None:
            yield problem


def block_problem(shard: Shard, number: int, found: str) -> str | None:
    """Return what is wrong with a block of the .bin whose SHA-256 was found; None if it is the manifest's."""
    expected = shard.manifest.bin_block_sha256[number]
    if found == expected:
        return None
    itemsize = shard.dtype.itemsize
    first, end = number * HASH_BLOCK_BYTES, min((number + 1) * HASH_BLOCK_BYTES, shard.num_tokens * itemsize)
    documents = shard.documents_over(first // itemsize, (end - first) // itemsize)
    return (
        f"{shard_paths(shard.prefix)[0]} block {number} (bytes {first} to {end - 1}, documents {documents[0]} to "
        f"{documents[-1]}) has sha256 {found}, expected {expected}; its bytes changed, {REMEDY}"
    )


def index_problem(shard: Shard, found: str) -> str | None:
    """Return what is wrong with an .idx whose SHA-256 was found; None if it is the manifest's."""
    expected = shard.manifest.idx_sha256
    if found == expected:
        return None
    return f"{shard_paths(shard.prefix)[1]} has sha256 {found}, expected {expected}; its bytes changed, {REMEDY}"


def check_tokens(shard: Shard, start_token: int, num_tokens: int) -> None:
    """Compare the blocks of the .bin that hold these tokens with the manifest. Raises: DamagedShardError naming the first."""
    path, itemsize = shard_paths(shard.prefix)[0], shard.dtype.itemsize
    first, last = (token * itemsize // HASH_BLOCK_BYTES for token in (start_token, start_token + num_tokens - 1))
    with reading(path), path.open("rb") as stream:
        for number in range(first, last + 1):
            stream.seek(number * HASH_BLOCK_BYTES)
            found = hashlib.sha256(stream.read(HASH_BLOCK_BYTES)).hexdigest()
            if (problem := block_problem(shard, number, found)) is not None:
                raise DamagedShardError(problem)


def _id_problems(shard: Shard) -> Iterator[str]:
    path = shard_paths(shard.prefix)[0]
    highest, bad = -1, 0
    for start in range(0, shard.num_tokens, BLOCK_TOKENS):
        block = shard.tokens[start : start + BLOCK_TOKENS]
        highest = max(highest, int(block.max()))
        outside = np.flatnonzero((block < 0) | (block >= shard.manifest.vocab_size))
        if len(outside) and not bad:
            at = start + int(outside[0])
            document = int(np.searchsorted(shard.document_offsets, at, side="right")) - 1
            yield (
                f"{path} holds id {int(shard.tokens[at])} at token {at} (document {document}), expected 0 to vocab_size - 1 = "
                f"{shard.manifest.vocab_size - 1}; {REMEDY}"
            )
        bad += len(outside)
    if bad > 1:
        yield f"{path} holds {bad} ids outside the vocabulary in all"
    if highest != shard.manifest.highest_token_id:
        yield f"{path} holds highest id {highest}, expected {shard.manifest.highest_token_id}; {REMEDY}"


def _documents(numbers: np.ndarray) -> str:
    shown = ", ".join(map(str, numbers[:5].tolist()))
    return (
        f"document {shown}"
        if len(numbers) == 1
        else f"{len(numbers)} documents ({shown}{', ...' * (len(numbers) > 5)})"
    )

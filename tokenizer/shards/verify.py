"""Verification of shards against their manifests. Quick: what `open_shard` checks, in constant time. Deep: every byte."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanal.errors import DamageError, PassingError, UserError
from fanal.files import HASH_BLOCK_BYTES, block_sha256_of_file, reading, sha256_of_file
from tokenizer.shards.excluded_list import excluded_problem
from tokenizer.shards.index import check_files, read_document_indices, read_lengths, read_pointers
from tokenizer.shards.manifest import (
    DamagedShardError,
    ShardManifest,
    documents_path,
    excluded_path,
    order_path,
    read_manifest,
)
from tokenizer.shards.shard import Shard, open_shard, shard_paths
from tokenizer.vocabulary.load import load_tokenizer

BLOCK_TOKENS = 1 << 22
REMEDY = "copy it again from an intact copy, or encode it again"
MAX_PROBLEMS = 20
"""Most problems listed for one shard; a badly damaged file needs no longer list."""


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """Result of verifying one shard."""

    prefix: str
    num_documents: int | None
    """Number of documents; None if the shard could not be opened."""
    num_tokens: int | None
    problems: tuple[str, ...]
    """Descriptions of what is wrong, where, and what to do; empty if nothing is."""
    note: str | None = None
    """What the verification could not check, though nothing is known to be wrong."""
    cut_short: bool = False
    """Whether the last problem is not the shard's: it could not be read for now, and another try may succeed."""

    @property
    def failed(self) -> bool:
        """Whether something is wrong with the shard."""
        return len(self.problems) > self.cut_short


def verify(
    prefixes: Sequence[str | Path], deep: bool = False, tokenizer_dir: str | Path | None = None
) -> list[VerifyResult]:
    """Check each shard, continuing after a bad one so that one call reports all. Deep reads all data, else almost none.

    Args: tokenizer_dir, if given, must be the tokenizer that made the shards.
    Raises: UserError if that tokenizer is bad.
    """
    tokenizer_sha256 = None if tokenizer_dir is None else load_tokenizer(tokenizer_dir).model_sha256
    return [_verify_one(prefix, deep, tokenizer_sha256) for prefix in prefixes]


def _verify_one(prefix: str | Path, deep: bool, tokenizer_sha256: str | None) -> VerifyResult:
    shard = note = None
    problems: list[str] = []
    cut_short = False
    try:
        manifest = read_manifest(prefix, may_be_empty=True)
        note = _note(prefix, manifest)
        if not manifest.num_documents:  # a part that got no document is sound, though nothing opens it
            check_files(prefix, manifest)
            problems += columns_problems(prefix, manifest, deep=deep)
            return VerifyResult(prefix=str(prefix), num_documents=0, num_tokens=0, problems=tuple(problems), note=note)
        shard = open_shard(prefix)
        if tokenizer_sha256 not in (None, shard.manifest.tokenizer_sha256):
            problems.append(
                f"{shard_paths(prefix)[2]} has tokenizer_sha256 {shard.manifest.tokenizer_sha256}, expected {tokenizer_sha256}; "
                "name the tokenizer that made the shard"
            )
        problems += columns_problems(prefix, manifest, deep=deep)
        if deep:
            for problem in deep_problems(shard):
                problems.append(problem)
                if len(problems) == MAX_PROBLEMS:
                    problems.append(f"{prefix}: more problems are not listed")
                    break
        elif shard.manifest.excluded_sha256 is not None and not excluded_path(prefix).exists():
            problems.append(excluded_problem(prefix, shard.manifest) or "")
    except PassingError as error:
        cut_short = True
        problems.append(f"{prefix} cannot be read for now, which says nothing about it: {error}")
    except (UserError, DamageError) as error:
        problems.append(str(error))
    return VerifyResult(
        prefix=str(prefix),
        num_documents=shard.num_documents if shard else None,
        num_tokens=shard.num_tokens if shard else None,
        problems=tuple(problems),
        note=note,
        cut_short=cut_short,
    )


def _note(prefix: str | Path, manifest: ShardManifest) -> str | None:
    if manifest.manifest_sha256 is not None:
        return None
    return (
        f"{shard_paths(prefix)[2]} has no hash of its own, since an earlier version wrote it: a change of its labels (licence, "
        "source, ...) would not be found; encode the shard again to have one"
    )


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

"""Are shards what their manifests say? Quick: what opening checks. Deep: every byte."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenizer.files import sha256_of_file
from tokenizer.index import read_lengths
from tokenizer.shards import Shard, ShardError, open_shard, shard_paths

BLOCK_TOKENS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """The finding about one shard."""

    prefix: str
    num_documents: int | None
    """None if the shard could not be opened."""
    num_tokens: int | None
    problem: str | None
    """What is wrong and what to do; None if nothing is."""


def verify(prefixes: Sequence[str | Path], deep: bool = False) -> list[VerifyResult]:
    """Check each shard, and go on after a bad one so that one call tells all. Deep reads all data, else about none."""
    return [_verify_one(prefix, deep) for prefix in prefixes]


def _verify_one(prefix: str | Path, deep: bool) -> VerifyResult:
    shard = None
    problem = None
    try:
        shard = open_shard(prefix)
        if deep:
            check_content(shard)
    except (ShardError, OSError) as error:
        problem = str(error)
    return VerifyResult(
        prefix=str(prefix),
        num_documents=shard.num_documents if shard else None,
        num_tokens=shard.num_tokens if shard else None,
        problem=problem,
    )


def check_content(shard: Shard) -> None:
    """Hash both files, and hold tokens and offsets against the manifest (a hash alone would bless a bad writer).

    Raises: ShardError.
    """
    bin_path, idx_path, _ = shard_paths(shard.prefix)
    mend = "copy it again from where it was whole, or encode it again"
    for path, expected in ((idx_path, shard.manifest.idx_sha256), (bin_path, shard.manifest.bin_sha256)):
        found = sha256_of_file(path)
        if found != expected:
            raise ShardError(f"{path} has sha256 {found}, expected {expected}; its bytes changed, {mend}")
    highest = -1
    for start in range(0, shard.num_tokens, BLOCK_TOKENS):
        block = shard.tokens[start : start + BLOCK_TOKENS]
        highest = max(highest, int(block.max()))
        if int(block.min()) < 0:
            raise ShardError(f"{bin_path} holds a negative id in tokens {start} to {start + len(block) - 1}; {mend}")
    if highest != shard.manifest.highest_token_id:
        raise ShardError(f"{bin_path} holds highest id {highest}, expected {shard.manifest.highest_token_id}; {mend}")
    lengths = read_lengths(shard.prefix, shard.num_documents)
    if not np.array_equal(np.diff(shard.document_offsets), lengths) or lengths.min() < 1:
        raise ShardError(f"{idx_path} holds document lengths that do not lead from one byte offset to the next; {mend}")

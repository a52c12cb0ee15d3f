"""Shards for the tests of the data room: copied, and changed behind their manifest."""

import shutil
from pathlib import Path

import numpy as np

from tokenizer.shards.shard import open_shard


def copy_shard(prefix: Path, target: Path) -> Path:
    """The same shard under another prefix, which is returned."""
    for suffix in (".bin", ".idx", ".json"):
        shutil.copyfile(f"{prefix}{suffix}", f"{target}{suffix}")
    return target


def write_token(prefix: Path, token: int, token_id: int) -> None:
    """Change one token; manifest and index stay."""
    tokens = np.memmap(f"{prefix}.bin", dtype=open_shard(prefix).dtype, mode="r+")
    tokens[token] = token_id
    tokens.flush()

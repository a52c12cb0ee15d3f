"""Shards for the tests of the data room: copied, and changed behind their manifest."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from fanal.files import BlockHasher
from fanal.records import record_bytes
from tokenizer.shards.index import write_index
from tokenizer.shards.manifest import DTYPES, read_manifest, shard_paths, with_own_hash
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


def many_shards(model: Path, folder: Path, count: int, *, num_tokens: int = 200) -> list[Path]:
    """Tiny shards with different tokens, each in a domain of its own, of the tokenizer of the shard ``model``; their prefixes.

    Written without the writer, which syncs each to the disk.
    """
    manifest, draw = read_manifest(model), np.random.default_rng(1)
    (folder / "lengths").write_bytes(np.array([num_tokens], "<i4").tobytes())
    idx_sha256 = write_index(folder / "idx", folder / "lengths", manifest.dtype)
    prefixes = [folder / f"source-{number}" for number in range(count)]
    for number, prefix in enumerate(prefixes):
        tokens = draw.integers(10, 500, num_tokens).astype(DTYPES[manifest.dtype])
        hasher = BlockHasher()
        hasher.update(tokens.tobytes())
        own = dataclasses.replace(
            manifest, num_tokens=num_tokens, num_documents=1, bin_block_sha256=hasher.hexdigests(), idx_sha256=idx_sha256,
            domain=f"domain-{number}", input_files=(), num_skipped=0,
        )  # fmt: skip
        bin_path, idx_path, json_path = shard_paths(prefix)
        bin_path.write_bytes(tokens.tobytes())
        idx_path.hardlink_to(folder / "idx")
        json_path.write_bytes(record_bytes(with_own_hash(own)))
    return prefixes

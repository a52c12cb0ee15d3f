"""Shards of documents of given lengths, written without a tokenizer."""

from pathlib import Path

import numpy as np

from fanal.files import BlockHasher
from fanal.records import record_bytes
from tokenizer.shards.index import write_index
from tokenizer.shards.manifest import FORMAT_VERSION, EncodeOptions, ShardManifest, shard_paths, with_own_hash
from tokenizer.shards.shard import Shard, open_shard


def make_shard(prefix: Path, lengths: list[int], **labels: str | None) -> Shard:
    """A shard of documents with so many tokens each, of seeded ids."""
    bin_path, idx_path, json_path = shard_paths(prefix)
    table = prefix.with_name(f"{prefix.name}.lengths")
    table.write_bytes(np.array(lengths, "<i4").tobytes())
    idx_sha256 = write_index(idx_path, table, "uint16")
    tokens = np.random.default_rng(len(lengths)).integers(10, 500, sum(lengths)).astype("<u2")
    hasher = BlockHasher()
    hasher.update(tokens.tobytes())
    manifest = ShardManifest(
        format_version=FORMAT_VERSION, tokenizer_sha256="0" * 64, vocab_size=500, dtype="uint16", num_documents=len(lengths),
        num_tokens=len(tokens), highest_token_id=int(tokens.max()), idx_sha256=idx_sha256,
        bin_block_sha256=hasher.hexdigests(), domain=None, licence=labels.get("licence"), language=labels.get("language"),
        source=None, input_files=(), options=EncodeOptions(append_bos=False, append_eos=False, text_field=None),
        fanal_version="0",
    )  # fmt: skip
    bin_path.write_bytes(tokens.tobytes())
    json_path.write_bytes(record_bytes(with_own_hash(manifest)))
    return open_shard(prefix)

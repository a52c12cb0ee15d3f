"""Shards of documents of given lengths, written without a tokenizer."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from fanal.files import BlockHasher, sha256_of_file
from fanal.records import record_bytes
from tokenizer.shards.index import write_index
from tokenizer.shards.manifest import (
    FORMAT_VERSION,
    EncodeOptions,
    ShardManifest,
    documents_path,
    shard_paths,
    with_own_hash,
)
from tokenizer.shards.shard import Shard, open_shard


def make_shard(
    prefix: Path,
    lengths: list[int],
    *,
    licence: str | None = None,
    language: str | None = None,
    columns: dict[str, list[str | None]] | None = None,
) -> Shard:
    """A shard of documents with so many tokens each, of seeded ids, with these labels and columns."""
    bin_path, idx_path, json_path = shard_paths(prefix)
    table = prefix.with_name(f"{prefix.name}.lengths")
    table.write_bytes(np.array(lengths, "<i4").tobytes())
    idx_sha256 = write_index(idx_path, table, "uint16")
    tokens = np.random.default_rng(len(lengths)).integers(10, 500, sum(lengths)).astype("<u2")
    hasher = BlockHasher()
    hasher.update(tokens.tobytes())
    if columns is not None:
        of_all = {"file": ["a.jsonl"] * len(lengths), "position": range(1, len(lengths) + 1)}
        pyarrow.parquet.write_table(
            pyarrow.table({**of_all, **columns}), documents_path(prefix), row_group_size=5, write_page_checksum=True
        )
    manifest = ShardManifest(
        format_version=FORMAT_VERSION, tokenizer_sha256="0" * 64, vocab_size=500, dtype="uint16", num_documents=len(lengths),
        num_tokens=len(tokens), highest_token_id=int(tokens.max()), idx_sha256=idx_sha256,
        bin_block_sha256=hasher.hexdigests(), domain=None, licence=licence, language=language,
        source=None, input_files=(), options=EncodeOptions(append_bos=False, append_eos=False, text_field=None),
        fanal_version="0",
        documents_sha256=None if columns is None else sha256_of_file(documents_path(prefix)),
        documents_columns=() if columns is None else ("file", "position", *columns),
    )  # fmt: skip
    bin_path.write_bytes(tokens.tobytes())
    json_path.write_bytes(record_bytes(with_own_hash(manifest)))
    return open_shard(prefix)

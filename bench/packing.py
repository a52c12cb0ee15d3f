"""What packing whole documents into rows costs and saves: padding, cut documents, seconds and bytes.

    python -m bench.packing PREFIX [PREFIX ...] [--seq-lengths 512,2048,8192]

PREFIX is a shard; several are counted as one table each. Without any, an index of drawn lengths is packed, for the time
alone: 2**20 documents, lognormal, with a median of 665 tokens.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pretrain.data.packing.plan import map_plan, plan_key, write_plan
from tokenizer.shards.index import write_index
from tokenizer.shards.shard import Shard, open_shard

DRAWN = 1 << 20
SEQ_LENGTHS = (512, 2048, 8192, 32_768)


def cut_by_chunks(offsets: np.ndarray, seq_length: int) -> tuple[int, int]:
    """Count the documents that chunks of seq_length + 1 tokens cut: (those that a chunk could hold whole, all).

    Chunks from the shard's first token on; an epoch may begin a few tokens later, which moves the cuts and hardly their number.
    """
    first, last = offsets[:-1], offsets[1:] - 1
    # Chunk n holds tokens n * s to n * s + s: its last token is the next one's first.
    chunk = first // seq_length
    is_cut = last > (chunk + 1) * seq_length
    fits = np.diff(offsets) <= seq_length + 1
    return int((is_cut & fits).sum()), int(is_cut.sum())


def table_of(prefix: str, seq_lengths: Sequence[int]) -> None:
    """Print a line for each length that the shard allows."""
    shard = open_shard(prefix)
    lengths = np.diff(shard.document_offsets)
    print(
        f"{prefix}: {shard.num_documents:,} documents, {shard.num_tokens:,} tokens; median {np.median(lengths):,.0f}, "
        f"mean {lengths.mean():,.0f}, longest {lengths.max():,}"
    )
    for seq_length in seq_lengths:
        if shard.num_tokens <= seq_length:
            continue
        key = plan_key(shard, train_tokens=shard.num_tokens, seq_length=seq_length)
        with tempfile.TemporaryFile() as stream:
            began = time.process_time()
            write_plan(stream, shard, key)
            took_s = time.process_time() - began
            plan, num_bytes = map_plan(stream, key, name="plan"), stream.seek(0, 2)
        without_need, in_all = cut_by_chunks(shard.document_offsets, seq_length)
        num = shard.num_documents
        print(
            f"  s {seq_length:>6,}: concatenated: {100 * in_all / num:.1f} % of documents cut, {100 * without_need / num:.1f} % "
            f"without need; best fit: {100 * plan.num_cut_documents / num:.1f} % cut, none without need, padding "
            f"{100 * plan.padding_share:.3f} %; {took_s:.3f} s of a core, {num_bytes / num:.1f} bytes a document"
        )


def time_of_drawn(seq_lengths: Sequence[int]) -> None:
    """Print the time and size of the plan of an index whose lengths are drawn. There are no tokens: a plan reads none."""
    random = np.random.default_rng(1)
    lengths = np.maximum(1, np.exp(random.normal(6.5, 1.3, DRAWN))).astype("<i4")
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "drawn"
        (Path(folder) / "lengths").write_bytes(lengths.tobytes())
        manifest = SimpleNamespace(
            idx_sha256=write_index(prefix.with_suffix(".idx"), Path(folder) / "lengths", "int32"),
            num_documents=DRAWN, num_tokens=int(lengths.sum(dtype=np.int64)), dtype="int32",
        )  # fmt: skip
        shard = Shard(prefix=prefix, manifest=manifest)  # type: ignore[arg-type]
        for seq_length in seq_lengths:
            key = plan_key(shard, train_tokens=shard.num_tokens, seq_length=seq_length)
            with tempfile.TemporaryFile() as stream:
                began = time.process_time()
                write_plan(stream, shard, key)
                made = time.process_time()
                plan, num_bytes = map_plan(stream, key, name="plan"), stream.seek(0, 2)
                opened = time.process_time()
            print(
                f"drawn, s {seq_length:>6,}: {made - began:.2f} s of a core to make, {opened - made:.3f} s to open, "
                f"{num_bytes / DRAWN:.1f} bytes a document, padding {100 * plan.padding_share:.4f} %; {DRAWN:,} documents"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefixes", nargs="*")
    parser.add_argument("--seq-lengths", default=",".join(map(str, SEQ_LENGTHS)))
    arguments = parser.parse_args()
    seq_lengths = [int(length) for length in arguments.seq_lengths.split(",")]
    for prefix in arguments.prefixes:
        table_of(prefix, seq_lengths)
    if not arguments.prefixes:
        time_of_drawn(seq_lengths)


if __name__ == "__main__":
    main()

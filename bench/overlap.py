"""Measure how fast `check-overlap` searches training shards for held-out text, and in how much memory: `make bench-overlap`.

    python -m bench.overlap [--megabytes N] [--rounds N] [--held-out TOKENS,TOKENS] [--units tokens|words]

Tokens: a shard of drawn ids (log-uniform below 32,000, about as frequent as words are), documents of 600 tokens, and held-out sides
of three sizes; one training document of a hundred holds a passage of the held-out side. Words: this Python's standard library, as
`fanal tokenizer sample-corpus` cuts it. CPU seconds of one core, from a page cache that holds the shard; every byte is hashed too.
"""

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.compare import append_result, interleaved, table
from tokenizer.documents.sample_corpus import make_sample_corpus
from tokenizer.encoding.encode import encode
from tokenizer.overlap.check import DEFAULT_NGRAM
from tokenizer.overlap.held_out import HeldOut, read_held_out
from tokenizer.overlap.scan import Findings
from tokenizer.overlap.units import token_stretches, word_stretches
from tokenizer.shards.shard import EncodeOptions, Shard, ShardWriter, open_shard
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.spec import load_spec
from tokenizer.vocabulary.train import train_tokenizer

RESULTS = Path(__file__).parent / "results" / "overlap.md"
SPEC = Path(__file__).parents[1] / "tokenizer" / "specs" / "tiny-2k.yaml"
VOCAB_SIZE, DOCUMENT_TOKENS, PASSAGE_TOKENS = 32_000, 600, 100
HELD_OUT_TOKENS = (100_000, 1_000_000, 4_000_000)
WRITTEN_DOCUMENTS = 500


def write_drawn(prefix: Path, num_tokens: int, *, seed: int, passages: Shard | None = None) -> Shard:
    """Write a shard of drawn documents. Args: passages: the shard whose documents begin with what every hundredth begins with."""
    draw = np.random.default_rng(seed)
    with ShardWriter(prefix, vocab_size=VOCAB_SIZE, tokenizer_sha256="1" * 64) as writer:
        while writer.num_tokens < num_tokens:
            documents = (VOCAB_SIZE ** draw.random((WRITTEN_DOCUMENTS, DOCUMENT_TOKENS))).astype(np.uint16) - 1
            if passages is not None:
                for row in range(0, WRITTEN_DOCUMENTS, 100):
                    number = int(draw.integers(passages.num_documents))
                    documents[row, :PASSAGE_TOKENS] = passages.document(number)[:PASSAGE_TOKENS]
            writer.add_documents(np.full(WRITTEN_DOCUMENTS, DOCUMENT_TOKENS, np.int32), documents.ravel())
        options = EncodeOptions(append_bos=False, append_eos=False, text_field=None)
        writer.finish(domain=None, licence=None, source=None, input_files=[], options=options)
    return open_shard(prefix)


def search(shard: Shard, findings: Findings, held_out: HeldOut, tokenizer_dir: Path | None = None) -> None:
    """Search a shard once more."""
    if held_out.vocabulary is None:
        stretches = token_stretches(shard, held_out.index.n)
    else:
        assert tokenizer_dir is not None
        stretches = word_stretches(shard, load_tokenizer(tokenizer_dir), held_out.vocabulary)
    for _ in findings.scan(shard, stretches):
        pass


def token_rows(folder: Path, megabytes: int, rounds: int, sizes: Sequence[int]) -> list[list[str]]:
    """Time tokens against held-out sides of these sizes."""
    shards = [write_drawn(folder / f"held-out-{size}", size, seed=number) for number, size in enumerate(sizes, 1)]
    training = write_drawn(folder / "train", megabytes * 500_000, seed=9, passages=shards[0])
    rows = []
    for shard in shards:
        tracemalloc.start()
        began = time.process_time()
        held_out = read_held_out(
            [shard], [], by="tokens", n=DEFAULT_NGRAM, tokenizer=None, text_field="text", num_token_ids=VOCAB_SIZE
        )
        index_s, (kept, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = Findings(held_out, min_ngrams=1)
        search(training, found, held_out)
        _, search_peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        timing = interleaved(
            {"search": lambda f=found, h=held_out: search(training, f, h)}, rounds=rounds, clock=time.process_time
        )
        num_bytes = training.num_tokens * training.dtype.itemsize
        low, high = (num_bytes / 1e6 / seconds for seconds in reversed(timing["search"].range_s))
        rows.append(
            [
                f"{shard.num_tokens:,}",
                f"{found.shards[0].num_documents:,} of {training.num_documents:,}",
                f"{num_bytes / 1e6 / timing['search'].median_s:.0f}",
                f"{low:.0f} to {high:.0f}",
                f"{index_s:.1f} s",
                f"{kept / 1e6:.0f} MB, at most {peak / 1e6:.0f}",
                f"{(search_peak - kept) / 1e6:.0f} MB",
            ]
        )
    return rows


def word_row(folder: Path, rounds: int) -> list[str]:
    """Time words of the standard library against what is held out of it."""
    make_sample_corpus(folder / "corpus", 4_000_000)
    train, validation = (folder / "corpus" / split / "prose.jsonl" for split in ("train", "validation"))
    train_tokenizer(load_spec(SPEC), [train], folder / "tokenizer")
    encode(folder / "tokenizer", [train], folder / "words", num_workers=1)
    shard, tokenizer = open_shard(folder / "words"), load_tokenizer(folder / "tokenizer")
    held_out = read_held_out(
        [], [validation], by="words", n=DEFAULT_NGRAM, tokenizer=tokenizer, text_field="text", num_token_ids=1
    )
    found = Findings(held_out, min_ngrams=1)
    search(shard, found, held_out, folder / "tokenizer")
    timing = interleaved(
        {"search": lambda: search(shard, found, held_out, folder / "tokenizer")}, rounds=rounds, clock=time.process_time
    )["search"]
    num_bytes = shard.num_tokens * shard.dtype.itemsize
    low, high = (num_bytes / 1e6 / seconds for seconds in reversed(timing.range_s))
    return [
        f"{int(held_out.offsets[-1]):,}",
        f"{found.shards[0].num_documents:,} of {shard.num_documents:,}",
        f"{num_bytes / 1e6 / timing.median_s:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{train.stat().st_size / 1e6 / timing.median_s:.2f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the training .bin of tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--held-out", default=",".join(map(str, HELD_OUT_TOKENS)), help="tokens of each held-out side")
    parser.add_argument("--units", choices=("tokens", "words"), help="what to measure alone")
    options = parser.parse_args(arguments)
    if options.units != "words":
        report_tokens(options)
    if options.units != "tokens":
        report_words(options)


def report_tokens(options: argparse.Namespace) -> None:
    """Measure tokens, and keep the figures."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [int(size) for size in options.held_out.split(",")]
        rows = token_rows(Path(folder), options.megabytes, options.rounds, sizes)
        header = (
            "held-out tokens", "training documents found", "MB of .bin a core-second", f"range of {options.rounds}",
            "index made in", "index", "search beside it",
        )  # fmt: skip
        append_result(
            RESULTS,
            f"check-overlap, {DEFAULT_NGRAM}-grams of tokens, {options.megabytes} MB of .bin",
            "Memory as tracemalloc counts it; the time of the index is taken with it on.\n\n" + table(header, rows),
        )


def report_words(options: argparse.Namespace) -> None:
    """Measure words, and keep the figures."""
    with tempfile.TemporaryDirectory() as folder:
        header = (
            "held-out words", "training documents found", "MB of .bin a core-second", f"range of {options.rounds}",
            "MB of JSON lines a core-second",
        )  # fmt: skip
        append_result(
            RESULTS,
            f"check-overlap, {DEFAULT_NGRAM}-grams of words, this Python's docstrings",
            table(header, [word_row(Path(folder), options.rounds)]),
        )


if __name__ == "__main__":
    main()

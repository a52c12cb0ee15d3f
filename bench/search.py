"""Search for text in many gigabytes of shards: build and size of the index, and searches with it and without.

    python -m bench.search [--folder DIR] [--gigabytes 10]

The shards, of up to 1 GB of .bin each, are made here and removed afterwards: code and prose of this Python's standard library, a
tokenizer of 2,000 ids, documents of 20 to 4,000 tokens that are put together from its lines at random, so that they are all
different. One sentence is planted in ten of them. Every search that is timed must find what it should: that sentence ten times.
Times are CPU time of the one process, so that other work on the machine counts little. Results are added to
bench/results/search.md.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.compare import append_result, table
from bench.data_corpus import make_tokenizer
from fanal.free_space import free_at
from tokenizer.documents.sample_corpus import make_sample_corpus
from tokenizer.encoding.encode import encode
from tokenizer.search.build import build_index
from tokenizer.search.find import Search
from tokenizer.shards.shard import EncodeOptions, Shard, ShardWriter, open_shard
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.load import load_tokenizer

RESULTS = Path(__file__).parent / "results" / "search.md"
SHARD_BYTES = 1_000_000_000
BATCH_DOCUMENTS = 1000
PLANTED = "The lighthouse keeper of Ouessant counted nineteen herons before breakfast."
ABSENT = "A lighthouse keeper of Molène had counted seventeen cormorants after supper."
NUM_PLANTED = 10
NOT_TOO_MANY = 20_000
"""Occurrences after which a search for a common word stops."""


@dataclass(frozen=True)
class Lines:
    """The lines of a corpus, as ids."""

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def lines_of(folder: Path) -> Lines:
    """Return the lines of code and prose, cut behind each token that ends with a new line, and none of more than 400 tokens."""
    make_sample_corpus(folder / "text", max_bytes_per_domain=8_000_000)
    inputs = [folder / "text" / "train" / f"{domain}.jsonl" for domain in ("code", "prose")]
    for path in inputs:
        encode(folder / "tokenizer", [path], folder / path.stem)
    tokens = np.concatenate([open_shard(folder / path.stem).tokens for path in inputs])
    pieces = load_tokenizer(folder / "tokenizer").token_bytes().pieces
    ends_line = np.array([piece.endswith(b"\n") or not piece for piece in pieces])
    ends = np.flatnonzero(ends_line[tokens]) + 1
    starts = np.concatenate([[0], ends[:-1]])
    kept = (ends - starts) <= 400
    return Lines(tokens, starts[kept], (ends - starts)[kept])


def random_documents(lines: Lines, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (lengths, tokens) of documents of lines that are drawn one by one."""
    num_lines = random.integers(2, 120, BATCH_DOCUMENTS)
    drawn = random.integers(0, len(lines.starts), num_lines.sum())
    lengths = lines.lengths[drawn]
    ends = np.cumsum(lengths)
    places = np.repeat(lines.starts[drawn] - (ends - lengths), lengths) + np.arange(ends[-1])
    document_ends = ends[np.cumsum(num_lines) - 1]
    return np.diff(document_ends, prepend=0).astype(np.int32), lines.tokens[places]


def make_shards(folder: Path, tokenizer: Tokenizer, num_bytes: int) -> list[Shard]:
    """Write shards of so many bytes of .bin, with the planted sentence in NUM_PLANTED documents of all of them."""
    lines, random = lines_of(folder), np.random.default_rng(1)
    (planted,) = tokenizer.encode_batch([PLANTED], num_threads=1)
    sizes = [min(SHARD_BYTES, num_bytes - start) for start in range(0, num_bytes, SHARD_BYTES)]
    options, prefixes = EncodeOptions(append_bos=False, append_eos=True, text_field="text"), []
    for number, size in enumerate(sizes):
        prefixes.append(folder / f"shard-{number}")
        num_planted = NUM_PLANTED // len(sizes) + (number < NUM_PLANTED % len(sizes))
        every, done = size // (2 * max(1, num_planted)), 0
        with ShardWriter(
            prefixes[-1], vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.model_sha256
        ) as writer:
            while 2 * writer.num_tokens < size:
                lengths, tokens = random_documents(lines, random)
                if done < num_planted and writer.num_tokens >= every * done:
                    at, done = int(lengths[0]), done + 1  # at the end of the first document
                    tokens = np.concatenate([tokens[:at], planted, tokens[at:]])
                    lengths[0] += len(planted)
                writer.add_documents(lengths, tokens)
            assert done == num_planted, f"{done} of {num_planted} sentences were planted"
            writer.finish(domain="random", licence=None, source=None, input_files=(), options=options)
    return [open_shard(prefix) for prefix in prefixes]


def timed(act: Callable[[], int]) -> tuple[int, float, float]:
    """Return what it gives, and its seconds of CPU and of the clock."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = act()
    return found, time.process_time() - cpu, time.perf_counter() - clock


def search_row(
    name: str, shards: Sequence[Shard], tokenizer: Tokenizer, *, expected: int | None, **wanted: str
) -> list[str]:
    """Search all shards, and return a row. Raises: SystemExit if another number of occurrences is found."""

    def act() -> int:
        search, found = Search(tokenizer, **wanted), 0
        for shard in shards:
            for _ in search.find(shard):
                found += 1
                if found == NOT_TOO_MANY:
                    return found
        return found

    found, cpu_s, clock_s = timed(act)
    if expected is not None and found != expected:
        raise SystemExit(f"{name}: {found} occurrences, and {expected} are there")
    num_bytes = sum(bytes_of(shard) for shard in shards)
    stopped = found == NOT_TOO_MANY
    speed = "-" if stopped else f"{num_bytes / cpu_s / 1e6:,.0f}"
    return [name, f"{num_bytes / 1e9:.2f}", f"{found:,}", f"{cpu_s:.2f}", f"{clock_s:.2f}", speed]


def bytes_of(shard: Shard) -> int:
    """Return the bytes of the .bin."""
    return shard.num_tokens * shard.dtype.itemsize


def measure(folder: Path, num_bytes: int) -> None:
    """Make the shards, and add the results."""
    make_tokenizer(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    shards = make_shards(folder, tokenizer, num_bytes)
    in_all = sum(map(bytes_of, shards))
    header = ["search", "GB of .bin", "occurrences", "CPU s", "s", "MB/s of .bin a core"]
    cases: list[tuple[str, dict[str, str], int | None]] = [
        ("a sentence that is there ten times", {"text": PLANTED}, NUM_PLANTED),
        ("a sentence that is not there", {"text": ABSENT}, 0),
        ("a part of a word, `Ouess`", {"text": "Ouess"}, NUM_PLANTED),
        ("`--regex 'herons\\s+be\\w+ breakfast'`", {"regex": r"herons\s+be\w+ breakfast"}, NUM_PLANTED),
    ]
    rows = [search_row(f"{name}, no index", shards, tokenizer, expected=count, **case) for name, case, count in cases]
    index_bytes, build_s, build_clock_s = 0, 0.0, 0.0
    for shard in shards:
        path, cpu_s, clock_s = timed_build(shard, tokenizer)
        index_bytes, build_s, build_clock_s = index_bytes + path, build_s + cpu_s, build_clock_s + clock_s
    rows += [search_row(f"{name}, index", shards, tokenizer, expected=count, **case) for name, case, count in cases]
    first = shards[:1]
    rows.append(
        search_row("words in every block, `import the`, index", first, tokenizer, expected=None, text="import the")
    )
    rows.append(search_row("a word in every document, `self`, index", first, tokenizer, expected=None, text="self"))
    rows.append(
        search_row("`--regex '[HQ]\\d+[hq]\\d+'`, no literal", first, tokenizer, expected=None, regex=r"[HQ]\d+[hq]\d+")
    )
    text = (
        f"Shards: {len(shards)}, with {in_all:,} bytes of .bin, {sum(shard.num_documents for shard in shards):,} documents of a "
        f"tokenizer of {tokenizer.vocab_size:,} ids. The index takes {index_bytes:,} bytes, {100 * index_bytes / in_all:.2f} % of "
        f"the .bin; it was built in {build_s:.1f} s of CPU time ({build_clock_s:.0f} s by the clock), {in_all / build_s / 1e6:.0f} "
        "MB/s of .bin a core, with the hash of every byte. Each search prepares its own tables; CPU time, "
        "and the clock beside it, on a machine that other work shared.\n\n"
    )
    append_result(RESULTS, f"Search of {in_all / 1e9:.1f} GB", text + table(header, rows))


def timed_build(shard: Shard, tokenizer: Tokenizer) -> tuple[int, float, float]:
    """Build one index: its bytes, and the seconds of CPU and of the clock."""
    return timed(lambda: build_index(shard.prefix, tokenizer).stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache"), help="where the shards are for the time")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of .bin, in all")
    options = parser.parse_args()
    num_bytes = round(options.gigabytes * 1e9)
    options.folder.mkdir(parents=True, exist_ok=True)
    needed = round(1.3 * num_bytes) + 1_000_000_000
    if free_at(options.folder).num_bytes < needed:
        raise SystemExit(
            f"{options.folder} has less than {needed:,} bytes left; --gigabytes with a smaller number works"
        )
    folder = Path(tempfile.mkdtemp(prefix="search-", dir=options.folder))
    try:
        measure(folder, num_bytes)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

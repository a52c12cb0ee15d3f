"""What the columns of a shard's documents cost: bytes a document, and CPU time of an encode with and without them.

    python -m bench.document_columns [--folder DIR]

The text is Debian's translated manual pages, once as they are with the columns that their fields give, and once with a URL and a
date beside them, drawn for each. A third corpus has random ids (UUIDs), which nothing compresses. Each side is a process of its
own; what counts is all CPU time of it and its workers, with the imports that only columns need.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.compare import append_result, cpu_s, table
from bench.data_encode import VOCAB_SIZE, make_tokenizer
from bench.debian_text import make_text

RESULTS = Path(__file__).parent / "results" / "document_columns.md"
ROUNDS = 5
SHUFFLE_SEED = 1
LOOKUPS = 1024
"""Documents that a step of as many samples may ask for."""


def pages(folder: Path) -> Iterator[dict[str, Any]]:
    """Every page of every language, with its path as its id."""
    for path in make_text(folder):
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                page = json.loads(line)
                yield {"id": page.pop("source"), **page}


def with_address(folder: Path) -> Iterator[dict[str, Any]]:
    """The same with a URL, one of 200 sites, and a date, drawn for each page."""
    draw = random.Random(3)
    for page in pages(folder):
        site = f"www.site-{draw.randrange(200)}.co.uk"
        date = f"{draw.randrange(2000, 2025)}-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}"
        yield {**page, "url": f"https://{site}/{page['id']}", "date": date}


def with_random_ids(folder: Path) -> Iterator[dict[str, Any]]:
    """The same with an id of 128 random bits."""
    draw = random.Random(4)
    for page in with_address(folder):
        yield {**page, "id": str(uuid.UUID(int=draw.getrandbits(128)))}


CORPORA = {
    "pages: file, line, path of the page as id, licence, language": pages,
    "the same, and the domain of a URL and a date": with_address,
    "the same with UUIDs for ids": with_random_ids,
}


def measure(tokenizer: Path, text: Path, prefix: Path, shuffle_seed: int | None, *, with_columns: bool) -> float:
    """Return the CPU seconds of one encode, in a process of its own."""
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        path.unlink()
    words = [str(tokenizer), str(text), str(prefix), str(shuffle_seed), str(int(with_columns))]
    command = [sys.executable, "-W", "ignore", "-m", "bench.document_columns", "--side", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def run_side(words: Sequence[str]) -> None:
    """Encode, in the process that is measured."""
    from tokenizer.documents.column_fields import ColumnFields
    from tokenizer.encoding.encode import encode

    tokenizer, text, prefix, seed, with_columns = words
    before = cpu_s()
    encode(
        tokenizer,
        [text],
        prefix,
        shuffle_seed=None if seed == "None" else int(seed),
        num_workers=1,
        columns=ColumnFields() if with_columns == "1" else None,
    )
    print(cpu_s() - before)


def look_up(prefix: Path) -> tuple[float, float]:
    """Return milliseconds to open the columns, and to read the rows of LOOKUPS documents one by one, a document."""
    from tokenizer.shards.document_columns import open_columns
    from tokenizer.shards.manifest import read_manifest

    manifest = read_manifest(prefix)
    started = time.process_time()
    columns = open_columns(prefix, manifest)
    opened = time.process_time()
    assert columns is not None
    draw = random.Random(5)
    for _ in range(LOOKUPS):
        columns.rows([draw.randrange(manifest.num_documents)])
    return (opened - started) * 1e3, (time.process_time() - opened) * 1e3 / LOOKUPS


def row_of(name: str, tokenizer: Path, text: Path, prefix: Path, shuffle_seed: int | None, rounds: int) -> list[str]:
    """Measure one corpus in one order."""
    from tokenizer.shards.manifest import documents_path, read_manifest

    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for with_columns in (False, True) if number % 2 else (True, False):
            cost = measure(tokenizer, text, prefix, shuffle_seed, with_columns=with_columns)
            if number:  # the first round fills the page cache
                found[with_columns].append(cost)
    measure(tokenizer, text, prefix, shuffle_seed, with_columns=True)
    num_documents = read_manifest(prefix).num_documents
    extra = [(more - less) / less for less, more in zip(found[False], found[True], strict=True)]
    _, lookup_ms = look_up(prefix)
    return [
        f"{name}, {'in order' if shuffle_seed is None else 'shuffled'}",
        f"{num_documents:,}",
        f"{documents_path(prefix).stat().st_size / num_documents:.1f}",
        f"{statistics.median(found[False]):.2f}",
        f"{statistics.median(found[True]):.2f}",
        f"{100 * (statistics.median(found[True]) / statistics.median(found[False]) - 1):.1f} %",
        f"{100 * min(extra):.1f} to {100 * max(extra):.1f} %",
        f"{1e6 * (statistics.median(found[True]) - statistics.median(found[False])) / num_documents:.1f}",
        f"{lookup_ms:.2f}",
    ]


def main() -> None:
    """Measure, or be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where texts are kept; a temporary one if left out")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="the corpora with these words in their names")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return run_side(options.side)
    with tempfile.TemporaryDirectory() as temporary:
        work, rows = Path(temporary), []
        tokenizer = None
        for number, (name, make) in enumerate(CORPORA.items()):
            if options.only not in name:
                continue
            text = work / f"corpus-{number}.jsonl"
            with text.open("w", encoding="utf-8") as stream:
                stream.writelines(
                    json.dumps(page, ensure_ascii=False) + "\n" for page in make(options.folder or work / "pages")
                )
            tokenizer = tokenizer or make_tokenizer(work, text)
            for shuffle_seed in (None, SHUFFLE_SEED):
                rows.append(row_of(name, tokenizer, text, work / "shard", shuffle_seed, options.rounds))
            megabytes = text.stat().st_size / 1e6
            text.unlink()
    header = [
        "",
        "documents",
        "bytes a document",
        "CPU s without",
        "with",
        "more",
        f"range of {options.rounds}",
        "us a document",
        "ms to look one up",
    ]
    summary = (
        f"Debian's translated manual pages, {megabytes:.0f} MB of JSON lines, vocabulary of {VOCAB_SIZE:,}, 1 worker; medians of "
        f"{options.rounds} rounds in turn. Looking up reads one row group for each of {LOOKUPS:,} documents at random places.\n\n"
    )
    append_result(RESULTS, "Columns of documents", summary + table(header, rows))


if __name__ == "__main__":
    main()

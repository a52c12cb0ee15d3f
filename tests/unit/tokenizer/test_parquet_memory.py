"""Parquet files of a few kilobytes that describe gigabytes: read in bounded memory, or refused by file and row group."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tokenizer.documents import parquet
from tokenizer.documents.blocks import InputReader
from tokenizer.documents.compressed import HashedFile
from tokenizer.documents.parquet import NotRowsError, row_blocks, rows

ROOT = Path(__file__).parents[3]
LONG = "a" * 1_000_000
READ = """
import sys
from tokenizer.documents.blocks import InputReader
from tokenizer.documents.parquet import rows
from tokenizer.documents import parquet
parquet.MAX_PAGE_BYTES = int(sys.argv[2])
def high(): return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) << 10
before = high()
for block in InputReader([sys.argv[1]]):
    if block.problem: print(block.problem)
    assert len(block.data) < 9 << 20, len(block.data)
print(high() - before)
"""
Make = Callable[[Path], None]


def write(column: object, **options: Any) -> Make:
    table = lambda: pyarrow.table({"text": column() if callable(column) else column})  # noqa: E731
    return lambda path: pyarrow.parquet.write_table(table(), path, row_group_size=1 << 30, **options)


BOUNDED: dict[str, Make] = {
    "a long value in a dictionary": write([LONG] * 800, compression="zstd"),
    "a category": write(lambda: pyarrow.array([LONG] * 800).dictionary_encode(), compression="gzip"),
    "values that begin as the last one": write(
        [LONG] * 800, compression="zstd", use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}
    ),
    "runs of nulls": write(lambda: pyarrow.nulls(30_000_000, pyarrow.string()), compression="zstd"),
}
REFUSED: dict[str, Make] = {
    f"a page of {compression}": write(["b" * 150_000_000], compression=compression, use_dictionary=False)
    for compression in ("snappy", "zstd")
} | {"a dictionary": write(["c" * 150_000_000] * 3, compression="zstd", dictionary_pagesize_limit=1 << 30)}
LIMIT = 128 << 20
"""A quarter of the real one, so that the test is quick."""


def read(path: Path, *, limit: int = parquet.MAX_PAGE_BYTES) -> tuple[list[str], int]:
    """Read a file in a process of its own. Returns: the lines it said, and how far its memory grew, in bytes."""
    words = [sys.executable, "-c", READ, str(path), str(limit)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *said, grown = done.stdout.splitlines()
    return said, int(grown)


@pytest.mark.parametrize("make", BOUNDED.values(), ids=list(BOUNDED))
def test_what_a_few_bytes_describe_is_read_in_bounded_memory(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    make(path)
    assert path.stat().st_size < 200_000
    said, grown = read(path)
    assert not said
    assert grown < 300 << 20, f"{grown >> 20} MiB for {path.stat().st_size} bytes"


@pytest.mark.parametrize("make", REFUSED.values(), ids=list(REFUSED))
def test_a_page_that_takes_far_more_than_it_has_in_the_file_is_refused_by_row_group(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    make(path)
    said, grown = read(path, limit=LIMIT)
    assert re.match(
        r"has pages in row group 0 that unpack to 15\d,\d{3},\d{3} bytes at once, more than 134,217,728", said[0]
    )
    assert grown < 50 << 20, f"{grown >> 20} MiB"


def test_the_advice_for_large_pages_writes_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"{number} " * 2000 for number in range(1000)]
    write(texts, compression="zstd")(path)
    monkeypatch.setattr(parquet, "MAX_PAGE_BYTES", 2_000_000)
    (block,) = InputReader([path])
    assert block.problem
    advice = re.search(r"if that is meant, `(.*)` writes it anew", block.problem)
    assert advice
    subprocess.run(["bash", "-c", advice[1]], check=True)
    (new,) = tmp_path.glob("*.parquet")
    assert [row["text"] for block in InputReader([new]) for row in rows(block.data)] == texts
    assert shlex.split(advice[1])[-1] == f"{path}.orig"


def test_a_large_page_of_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    texts = [os.urandom(2000).hex() for _ in range(1000)]
    write(texts, compression="zstd", use_dictionary=False)(path)
    monkeypatch.setattr(parquet, "MAX_PAGE_BYTES", 1000)
    assert [row["text"] for block in InputReader([path]) for row in rows(block.data)] == texts


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_rows_of_every_kind_of_page_come_in_order(
    version: str, dictionary: bool, compression: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    texts = [None if number % 7 == 3 else f"é{number % 90}" * (number % 50) for number in range(5000)]
    table = pyarrow.table({"text": texts, "domain": ["x", None] * 2500, "more": list(range(5000))})
    pyarrow.parquet.write_table(
        table, path, compression=compression, use_dictionary=dictionary, data_page_version=version, row_group_size=1700,
        data_page_size=3000, write_batch_size=100,
    )  # fmt: skip
    with HashedFile(path, begin=0, end=path.stat().st_size, size=path.stat().st_size) as stream:
        blocks = list(row_blocks(path, ["text", "domain"], 20_000, stream))
    assert len(blocks) > 5
    found = [row for data, _ in blocks for row in rows(data)]
    assert found == table.select(["text", "domain"]).to_pylist()
    assert [first for _, first in blocks] == [
        sum(len(rows(data)) for data, _ in blocks[:n]) for n in range(len(blocks))
    ]


def test_a_header_that_lies_is_damage_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write([f"{number}" for number in range(300)], compression="zstd")(path)
    content = path.read_bytes()
    outcomes = set()
    for place in range(4, 80):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with HashedFile(path, begin=0, end=len(content), size=len(content)) as stream:
            try:
                outcomes.add(sum(len(rows(data)) for data, _ in row_blocks(path, ["text"], 20_000, stream)))
            except NotRowsError as problem:
                outcomes.add(str(problem).split()[0])
    assert "cannot" in outcomes


def test_a_column_of_lists_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["x", "y"], "domain": [[LONG] * 20, None]})
    pyarrow.parquet.write_table(table, path, compression="zstd")
    (block,) = InputReader([path], columns=("text", "domain"))
    assert rows(block.data) == [{"text": "x", "domain": []}, {"text": "y", "domain": []}]
    assert len(block.data) < 5000
    (block,) = InputReader([path], columns=("domain",))
    assert block.problem and block.problem.startswith("has lists in column 'domain', and needs text there")

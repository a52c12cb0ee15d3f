"""`--on-error skip` leaves out whatever cannot be read, counts it and says where it was; without it, the message names it."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from fanal.errors import UserError
from tokenizer.documents import blocks
from tokenizer.documents.blocks import Part
from tokenizer.encoding.encode import encode
from tokenizer.encoding.merge import merge
from tokenizer.shards.shard import open_shard

SKIP = "--on-error skip"


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def skipped(tokenizer_dir: Path, folder: Path, prefix: Path, **options) -> tuple[int, list[str]]:
    """Encode a folder with skip; the number of documents, and what was left out."""
    report = encode(tokenizer_dir, [folder], prefix, on_error="skip", **options)
    assert report.manifest.num_skipped == len(report.skipped)
    assert open_shard(prefix).num_documents == report.manifest.num_documents
    return report.manifest.num_documents, list(report.skipped)


def parquet(path: Path, **columns: list) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


BROKEN = {
    "empty.jsonl": lambda path: path.write_bytes(b""),
    "empty.txt": lambda path: path.write_bytes(b""),
    "empty.jsonl.gz": lambda path: path.write_bytes(b""),
    "empty.parquet": lambda path: path.write_bytes(b""),
    "no gzip.jsonl.gz": lambda path: path.write_bytes(lines("x")),
    "no zstd.jsonl.zst": lambda path: path.write_bytes(b"\1\2\3" * 9),
    "no parquet.parquet": lambda path: path.write_bytes(b"\1\2\3" * 9),
    "no column.parquet": lambda path: parquet(path, content=["x"]),
    "array.json": lambda path: path.write_text(json.dumps([{"text": "x"}] * 3, indent=1)),
    "utf-16.jsonl": lambda path: path.write_text('{"text": "x"}\n', encoding="utf-16"),
    "latin.txt": lambda path: path.write_bytes("é".encode("latin-1")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_left_out_whole_and_once(tmp_path: Path, tokenizer_dir: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines("one", "two"))
    BROKEN[name](folder / name)
    (folder / "z.jsonl").write_bytes(lines("three"))
    documents, (problem,) = skipped(tokenizer_dir, folder, tmp_path / "x")
    assert documents == 3 and problem.startswith(f"{folder / name}")
    with pytest.raises(UserError, match=SKIP) as stopped:
        encode(tokenizer_dir, [folder], tmp_path / "y")
    assert str(stopped.value).startswith(problem)
    assert not list(tmp_path.glob("y*"))


def test_an_empty_file_stops_before_anything_is_read_without_skip(tmp_path: Path, tokenizer_dir: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"nonsense\n")
    (tmp_path / "b.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=rf"b.jsonl is empty; .*{SKIP}"):
        encode(tokenizer_dir, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "x")


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_what_lies_before_the_cut_of_a_compressed_file_is_kept(
    tmp_path: Path, tokenizer_dir: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    noise = random.Random(1)
    content = lines(*(f"{number} {noise.getrandbits(4000):x}" for number in range(300)))
    packed = gzip.compress(content) if suffix == "gz" else zstandard.compress(content)
    (folder / f"a.jsonl.{suffix}").write_bytes(packed[: len(packed) * 3 // 4])
    (folder / "b.jsonl").write_bytes(lines("last"))
    documents, (problem,) = skipped(tokenizer_dir, folder, tmp_path / "x")
    assert 100 < documents < 250 and f"a.jsonl.{suffix} cannot be decompressed" in problem


@pytest.mark.parametrize("block_bytes", [7, 64, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_that_is_too_long_is_left_out_alone(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, packed: bool
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(blocks, "MAX_DOCUMENT_BYTES", 100)
    folder = tmp_path / "in"
    folder.mkdir()
    fits = "f" * (100 - len(lines("")) + 1)
    content = lines("one", "x" * 300, "two", fits, fits + "x", "y" * 90, "three")[:-1] + b" " * 200
    (folder / ("a.jsonl.gz" if packed else "a.jsonl")).write_bytes(gzip.compress(content) if packed else content)
    documents, problems = skipped(tokenizer_dir, folder, tmp_path / "x", num_workers=1)
    assert documents == 3
    assert [problem.split(": the line is longer")[0].rsplit(":", 1)[1] for problem in problems] == ["2", "5", "6", "7"]


@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_parts_leave_out_what_one_run_leaves_out(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(blocks, "MAX_DOCUMENT_BYTES", 100)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 30)
    monkeypatch.setattr(blocks, "READ_BLOCK_BYTES", 30)
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in {
        "0.jsonl": b"", "a.jsonl": lines("one", "x" * 300, "two", "y" * 200, "three"), "b.json": b'[\n{"text": "x"}\n]\n' * 9,
        "c.jsonl": b"", "d.jsonl": lines("four", "z" * 101), "e.jsonl": b"",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    whole = encode(tokenizer_dir, [folder], tmp_path / "whole", on_error="skip").manifest
    assert (whole.num_documents, whole.num_skipped) == (4, 7)
    parts = [tmp_path / str(number) for number in range(1, count + 1)]
    for number, prefix in enumerate(parts, start=1):
        encode(tokenizer_dir, [folder], prefix, on_error="skip", part=Part(number=number, count=count))
    assert merge(parts, tmp_path / "merged") == whole


def test_a_part_of_nothing_but_empty_files_is_skipped_with_a_word(tmp_path: Path, tokenizer_dir: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"would hold no document: all 2 were left out, the first: .*a.jsonl is empty"):
        encode(tokenizer_dir, [tmp_path], tmp_path / "x", on_error="skip")


PROGRAM = r"""
import pathlib, re, sys
from tokenizer.encoding.encode import encode
report = encode(sys.argv[1], [sys.argv[2]], sys.argv[3], on_error="skip", num_workers=1)
peak_kib = int(re.search(r"VmHWM:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1])  # getrusage has the starter's
print(report.manifest.num_documents, len(report.skipped), peak_kib >> 10)
"""


def test_a_line_of_a_gigabyte_is_passed_over_in_little_memory(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with zstandard.open(path, "wb") as stream:
        stream.write(lines("one") + b'{"text": "')
        for _ in range(64):
            stream.write(b"x" * (16 << 20))
        stream.write(b'"}\n' + lines("two"))
    words = [sys.executable, "-c", PROGRAM, str(tokenizer_dir), str(path), str(tmp_path / "x")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    documents, problems, megabytes = map(int, done.stdout.split())
    assert (documents, problems) == (2, 1)
    assert megabytes < 700, "the line is a gigabyte, and 256 MiB of it are held until it is known to be too long"

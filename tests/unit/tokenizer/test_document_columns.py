"""Columns of a shard's documents: each says where its document came from, whatever the shard went through."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fanal.errors import UserError
from tests.unit.tokenizer.manifests import edit_manifest
from tokenizer.__main__ import main
from tokenizer.documents.blocks import Part
from tokenizer.documents.column_fields import MAX_VALUE_CHARACTERS, ColumnFields
from tokenizer.documents.input_files import find_inputs
from tokenizer.encoding import merged_columns
from tokenizer.encoding.encode import encode
from tokenizer.encoding.merge import merge
from tokenizer.shards.adopt import adopt
from tokenizer.shards.document_columns import DocumentColumns, open_columns
from tokenizer.shards.manifest import DamagedShardError, ShardError, documents_path, prefix_of, read_manifest
from tokenizer.shards.shard import open_shard
from tokenizer.verify_shards import verify
from tokenizer.vocabulary.load import load_tokenizer

SUFFIXES = ("bin", "idx", "json", "documents.parquet")
SITES = ("https://www.a.co.uk/", "http://b.org/x", "https://c.github.io/y")
KEPT = ColumnFields(keep=("n", "tags"))


def document(number: int) -> dict[str, Any]:
    """A document that says things of itself, some of them always, some at times."""
    said: dict[str, Any] = {
        "text": f"document {number} " + "of words " * (number % 11),
        "id": f"doc-{number:05}",
        "n": number,
    }
    said["language"] = ("en", "fr")[number % 2]
    if number % 3:
        said |= {"url": SITES[number % 3], "date": f"2024-02-{1 + number % 28:02}", "tags": [f"t{number % 4}"]}
    return said


def lines(first: int, end: int) -> bytes:
    """JSON lines with empty ones among them, and one ending of Windows."""
    return b"".join(
        b"\n" * (number % 5 == 0) + json.dumps(document(number)).encode() + (b"\r\n" if number % 7 == 0 else b"\n")
        for number in range(first, end)
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file that parts cut, a compressed one, rows, a text file, one without a last line end."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "a.jsonl").write_bytes(lines(0, 150))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(150, 180)))
    rows = [document(number) for number in range(180, 200)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "c.parquet")
    (folder / "d.txt").write_text("a text without fields")
    (folder / "e.jsonl").write_bytes(lines(200, 260).rstrip())
    return sorted(folder.iterdir())


def columns_of(prefix: Path) -> DocumentColumns:
    columns = open_columns(prefix, read_manifest(prefix))
    assert columns is not None
    return columns


def rows_of(prefix: Path) -> list[dict[str, Any]]:
    return columns_of(prefix).rows(range(read_manifest(prefix).num_documents))


def files_of(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}.{suffix}").read_bytes() for suffix in SUFFIXES]


def source_of(row: dict[str, Any]) -> dict[str, Any]:
    """The document that lies where a row says, read by other means than the encoder's."""
    path = Path(row["file"])
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).slice(row["position"], 1).to_pylist()[0]
    if path.suffix == ".txt":
        return {"text": path.read_text()}
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(content.split(b"\n")[row["position"] - 1])


def check_rows(prefix: Path, tokenizer_dir: Path) -> None:
    """Compare each row with the document whose tokens stand there, and with what the input says of it."""
    tokenizer, shard = load_tokenizer(tokenizer_dir), open_shard(prefix)
    rows = rows_of(prefix)
    assert len(rows) == shard.num_documents
    domains = dict(zip(SITES, ("a.co.uk", "b.org", "c.github.io"), strict=True))
    for number, row in enumerate(rows):
        said = source_of(row)
        assert tokenizer.decode(shard.document(number)[1:-1].tolist()) == said["text"]
        assert row["id"] == said.get("id") and row["language"] == said.get("language")
        assert row["date"] == said.get("date")
        assert row["host"] == (domains[said["url"]] if said.get("url") else None)
        assert row["n"] == (None if "n" not in said else str(said["n"]))
        tags = said.get("tags") if not row["file"].endswith(".parquet") else None  # lists of Parquet files are not read
        assert row["tags"] == (f'["{tags[0]}"]' if tags else None)


@pytest.mark.parametrize("shuffle_seed", [None, 7])
def test_every_row_says_where_its_document_lies_and_what_it_said_of_itself(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], shuffle_seed: int | None
) -> None:
    report = encode(tokenizer_dir, inputs, tmp_path / "a", shuffle_seed=shuffle_seed, columns=KEPT, num_workers=1)
    assert report.manifest.num_documents == 261
    assert report.manifest.documents_columns == ("file", "position", "id", "host", "language", "date", "n", "tags")
    check_rows(tmp_path / "a", tokenizer_dir)
    assert {row["file"] for row in rows_of(tmp_path / "a")} == {file.path for file in report.manifest.input_files or ()}
    assert verify([tmp_path / "a"], deep=True)[0].problems == ()


def test_tokens_and_index_are_those_of_a_shard_without_columns(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path]
) -> None:
    plain = encode(tokenizer_dir, inputs, tmp_path / "plain", num_workers=1).manifest
    encode(tokenizer_dir, inputs, tmp_path / "named", columns=KEPT, num_workers=1)
    assert files_of(tmp_path / "named")[:2] == [
        Path(f"{tmp_path}/plain.{suffix}").read_bytes() for suffix in SUFFIXES[:2]
    ]
    assert (plain.documents_sha256, plain.documents_columns) == (None, ())
    assert not documents_path(tmp_path / "plain").exists()
    assert open_columns(tmp_path / "plain", plain) is None


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.documents.blocks.BLOCK_BYTES", 700)
    monkeypatch.setattr("tokenizer.shards.shuffle.BUCKET_BYTES", 900)
    monkeypatch.setattr("tokenizer.shards.shuffle.BATCH_TOKENS", 300)
    monkeypatch.setattr("tokenizer.encoding.merge.BATCH_TOKENS", 300)


@pytest.mark.parametrize("group_rows", [16, 1 << 12])
@pytest.mark.parametrize("shuffle_seed", [None, 7])
def test_the_file_does_not_depend_on_workers_or_blocks_or_parts(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch,
    shuffle_seed: int | None, group_rows: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("tokenizer.shards.columns_writer.ROW_GROUP_ROWS", group_rows)
    encode(tokenizer_dir, inputs, tmp_path / "whole", shuffle_seed=shuffle_seed, columns=KEPT, num_workers=1)
    small_pieces(monkeypatch)
    encode(tokenizer_dir, inputs, tmp_path / "again", shuffle_seed=shuffle_seed, columns=KEPT, num_workers=3)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")
    for count in (1, 2, 7, 40):
        parts = [tmp_path / f"{count}-{number}" for number in range(1, count + 1)]
        for number, prefix in enumerate(parts, start=1):
            part = Part(number=number, count=count)
            encode(tokenizer_dir, inputs, prefix, shuffle_seed=shuffle_seed, part=part, columns=KEPT, num_workers=1)
            assert verify([prefix], deep=True)[0].problems == ()
        merge(parts[::-1], tmp_path / f"merged-{count}")
        assert files_of(tmp_path / f"merged-{count}") == files_of(tmp_path / "whole")
    assert not list(tmp_path.glob("*.part"))


def test_a_merge_that_counts_lines_from_each_part_is_found(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, prefix in enumerate(parts, start=1):
        encode(tokenizer_dir, inputs[:1], prefix, part=Part(number=number, count=2), columns=KEPT, num_workers=1)
    count = merged_columns.PartColumns.__init__
    monkeypatch.setattr(merged_columns.PartColumns, "__init__", lambda self, columns, _: count(self, columns, {}))
    merge(parts, tmp_path / "merged")
    with pytest.raises((AssertionError, ValueError)):
        check_rows(tmp_path / "merged", tokenizer_dir)


def test_lines_that_are_skipped_count(tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.documents.blocks.MAX_DOCUMENT_BYTES", 2000)
    monkeypatch.setattr("tokenizer.documents.blocks.BLOCK_BYTES", 500)
    monkeypatch.setattr("tokenizer.documents.blocks.READ_BLOCK_BYTES", 500)
    bad = [b"not json\n", json.dumps({"text": "long " * 1000}).encode() + b"\n", b"\n"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(lines(n, n + 1) + bad[n % 3] for n in range(60)))
    encode(tokenizer_dir, [path], tmp_path / "whole", on_error="skip", columns=KEPT, num_workers=1)
    check_rows(tmp_path / "whole", tokenizer_dir)
    parts = [tmp_path / f"part-{number}" for number in range(1, 10)]
    for number, prefix in enumerate(parts, start=1):
        part = Part(number=number, count=9)
        encode(tokenizer_dir, [path], prefix, on_error="skip", part=part, columns=KEPT, num_workers=1)
    merge(parts, tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


def test_parts_with_other_columns_do_not_merge(tmp_path: Path, tokenizer_dir: Path, inputs: list[Path]) -> None:
    one, two, three = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    encode(tokenizer_dir, inputs[:1], one, part=Part(number=1, count=2), columns=KEPT, num_workers=1)
    for prefix, columns in ((two, None), (three, ColumnFields())):
        encode(tokenizer_dir, inputs[:1], prefix, part=Part(number=2, count=2), columns=columns, num_workers=1)
        with pytest.raises(ShardError, match=r"were not given the same --input .* and options"):
            merge([one, prefix], tmp_path / "merged")
    edit_manifest(two, part_of=read_manifest(one).part_of)
    with pytest.raises(ShardError, match=rf"{two} has no columns of its documents, and other parts have"):
        merge([one, two], tmp_path / "merged")


def test_a_merge_blesses_no_changed_columns(tmp_path: Path, tokenizer_dir: Path, inputs: list[Path]) -> None:
    encode(tokenizer_dir, inputs[:1], tmp_path / "1", part=Part(), columns=KEPT, num_workers=1)
    flip(documents_path(tmp_path / "1"), 40)
    with pytest.raises(
        DamagedShardError, match=r"1.documents.parquet has sha256 .*, expected .*; encode this part again"
    ):
        merge([tmp_path / "1"], tmp_path / "merged")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def shard(tmp_path: Path, tokenizer_dir: Path, inputs: list[Path]) -> Path:
    encode(tokenizer_dir, inputs[:2], tmp_path / "shard", columns=KEPT, num_workers=1)
    return tmp_path / "shard"


def test_every_flipped_byte_is_found(shard: Path) -> None:
    path = documents_path(shard)
    for place in range(0, path.stat().st_size, 97):
        flip(path, place)
        assert verify([shard], deep=True)[0].failed, place
        flip(path, place)
    assert not verify([shard], deep=True)[0].failed


def test_a_lookup_finds_a_changed_page(shard: Path) -> None:
    path = documents_path(shard)
    footer = int.from_bytes(path.read_bytes()[-8:-4], "little")
    found = 0
    for place in range(4, path.stat().st_size - footer - 8, 101):
        flip(path, place)
        try:
            rows_of(shard)
        except DamagedShardError as problem:
            found += 1
            assert f"{path}" in str(problem)
        flip(path, place)
    assert found > 10  # what is not found lies in headers of pages, where few bytes matter


@pytest.mark.parametrize("deep", [(), ("--deep",)], ids=["quick", "deep"])
@pytest.mark.parametrize("harm", ["missing", "another shard's", "cut", "no Parquet"])
def test_verify_ends_with_76_for_columns_that_are_not_the_shards(
    shard: Path,
    tokenizer_dir: Path,
    inputs: list[Path],
    capfd: pytest.CaptureFixture[str],
    harm: str,
    deep: Sequence[str],
) -> None:
    path = documents_path(shard)
    if harm == "missing":
        path.unlink()
    elif harm == "another shard's":
        encode(tokenizer_dir, inputs[4:], shard.with_name("other"), columns=KEPT, num_workers=1)
        documents_path(shard.with_name("other")).replace(path)
    else:
        path.write_bytes(path.read_bytes()[:-5] if harm == "cut" else b"{}" * 50)
    assert main(["verify", str(shard), *deep]) == 76
    assert str(path) in capfd.readouterr().err


def test_columns_that_no_manifest_names_are_found(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], shard: Path
) -> None:
    encode(tokenizer_dir, inputs[:2], tmp_path / "plain", num_workers=1)
    documents_path(tmp_path / "plain").write_bytes(documents_path(shard).read_bytes())
    (problem,) = verify([tmp_path / "plain"])[0].problems
    assert "plain.documents.parquet is there, and the shard's manifest knows of no columns" in problem
    documents_path(tmp_path / "new").write_bytes(b"precious")
    with pytest.raises(ShardError, match=r"new.documents.parquet exists without a manifest, and is not overwritten"):
        encode(tokenizer_dir, inputs[:1], tmp_path / "new", columns=KEPT)
    assert documents_path(tmp_path / "new").read_bytes() == b"precious"


def test_rows_and_batches_agree_in_any_order(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenizer.shards.columns_writer.ROW_GROUP_ROWS", 16)
    encode(tokenizer_dir, inputs, tmp_path / "a", columns=KEPT, num_workers=1)
    columns = columns_of(tmp_path / "a")
    batches = [batch.to_pylist() for batch in columns.batches(columns.names)]
    rows = [row for batch in batches for row in batch]
    assert len(rows) == 261 and list(rows[0]) == list(columns.names)
    numbers = np.random.default_rng(1).integers(0, 261, 300).tolist()
    assert columns.rows(numbers) == [rows[number] for number in numbers]
    assert columns.rows([]) == []
    some = [row for batch in columns.batches(["id"]) for row in batch.to_pylist()]
    assert some == [{"id": row["id"]} for row in rows]


def test_training_opens_a_shard_whose_columns_are_gone(shard: Path) -> None:
    documents_path(shard).unlink()
    assert open_shard(shard).num_documents == 180
    with pytest.raises(ShardError, match=r"shard.documents.parquet does not exist, and the shard's manifest says"):
        columns_of(shard)


@pytest.mark.parametrize("copied", [False, True], ids=["in place", "with --output"])
def test_adopt_takes_the_columns_over(shard: Path, tokenizer_dir: Path, copied: bool) -> None:
    before = rows_of(shard)
    Path(f"{shard}.json").unlink()
    prefix = shard.with_name("copy") if copied else shard
    adopt(shard, tokenizer_dir, output=prefix if copied else None)
    assert rows_of(prefix) == before
    assert verify([prefix], deep=True)[0].problems == ()


def test_adopt_leaves_out_the_rows_of_empty_documents(tmp_path: Path, tokenizer_dir: Path, shard: Path) -> None:
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    source = open_shard(shard)
    builder = IndexedDatasetBuilder(f"{tmp_path}/theirs.bin", dtype=DType.optimal_dtype(600))
    for number in range(source.num_documents):
        ids = source.document(number).tolist() if number % 4 else []
        builder.add_document(ids, [len(ids)])
    builder.finalize(f"{tmp_path}/theirs.idx")
    documents_path(tmp_path / "theirs").write_bytes(documents_path(shard).read_bytes())
    adopt(tmp_path / "theirs", tokenizer_dir, output=tmp_path / "ours")
    assert rows_of(tmp_path / "ours") == [row for number, row in enumerate(rows_of(shard)) if number % 4]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"file": ["a"], "position": [1]}, r"has 1 rows, expected one for each of 180 documents"),
        ({"position": [1] * 180, "file": ["a"] * 180}, r"has columns position, file, expected file \(text\), position"),
        ({"file": ["a"] * 180, "position": [1] * 180, "n": [1] * 180}, r"has column 'n' of int64, expected file"),
    ],
)
def test_adopt_refuses_columns_that_are_none(
    shard: Path, tokenizer_dir: Path, table: dict[str, list[object]], message: str
) -> None:
    Path(f"{shard}.json").unlink()
    pyarrow.parquet.write_table(pyarrow.table(table), documents_path(shard))
    with pytest.raises(ShardError, match=message):
        adopt(shard, tokenizer_dir)
    documents_path(shard).rename(shard.with_name("away"))  # as it says
    assert adopt(shard, tokenizer_dir).documents_sha256 is None


def test_a_parquet_file_is_read_in_the_columns_that_are_kept_alone(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = {"text": ["one two", "three"], "id": ["a", "b"], "other": ["x" * 5000, "y" * 5000]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    other = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(2)
    content = bytearray(path.read_bytes())
    start = other.dictionary_page_offset
    content[start : start + other.total_compressed_size] = b"\xff" * other.total_compressed_size
    path.write_bytes(content)
    encode(tokenizer_dir, [path], tmp_path / "a", columns=ColumnFields(), num_workers=1)
    assert [row["id"] for row in rows_of(tmp_path / "a")] == ["a", "b"]
    with pytest.raises(UserError, match=r"a.parquet"):
        encode(tokenizer_dir, [path], tmp_path / "b", columns=ColumnFields(keep=("other",)), num_workers=1)


def test_the_command_keeps_columns_unless_told_not_to(
    tmp_path: Path, tokenizer_dir: Path, inputs: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps(
            {"text": "x", "name": "n", "note": "z" * (MAX_VALUE_CHARACTERS + 1), "lang": "fr", "licence": ["MIT"]}
        )
    )
    words = ["encode", "--tokenizer", str(tokenizer_dir), "--input", str(path), "--workers", "1", "--output"]
    named = ["--id-field", "name", "--language-field", "lang", "--licence", "mixed"]
    assert main([*words, str(tmp_path / "a"), *named, "--keep", "note", "--keep", "author"]) == 0
    assert rows_of(tmp_path / "a") == [
        {"file": str(path), "position": 1, "id": "n", "licence": '["MIT"]', "language": "fr"}
    ]
    said = capfd.readouterr().err
    assert "warning: no document has field 'author' to keep" in said
    assert "warning: 1 documents have a 'note' of more than 4,096 characters, and it was not kept" in said
    assert main([*words, str(tmp_path / "b"), "--licence", "mixed", "--no-documents"]) == 0
    assert sorted(file.name for file in tmp_path.glob("b.*")) == ["b.bin", "b.idx", "b.json"]
    assert main([*words, str(tmp_path / "c"), "--no-documents", "--keep", "note"]) == 2
    assert (
        "--keep note asks for the columns that --no-documents leaves out; leave out one of the two"
        in capfd.readouterr().err
    )


def test_half_a_character_is_replaced(tmp_path: Path, tokenizer_dir: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "id": "a\\ud800b"}\n')
    encode(tokenizer_dir, [tmp_path / "a.jsonl"], tmp_path / "a", columns=ColumnFields(), num_workers=1)
    assert rows_of(tmp_path / "a")[0]["id"] == "a?b"


def test_a_shard_is_named_by_its_columns_too_and_they_are_no_input(shard: Path) -> None:
    assert prefix_of(documents_path(shard)) == shard
    (shard.parent / "a.jsonl").write_bytes(lines(0, 1))
    found = find_inputs([shard.parent])
    assert [path.name for path in found.paths] == ["a.jsonl"]
    reasons = {Path(one.path).name: one.reason for one in found.left_out}
    assert reasons["shard.documents.parquet"] == "the columns of a token shard"


KEPT_SHARD = Path(__file__).parents[2] / "golden" / "columns" / "shard"
"""`encode --shuffle-seed 4 --keep author` of pages.jsonl beside it, by the version that first wrote columns."""


def test_columns_that_an_earlier_version_wrote_are_read() -> None:
    assert verify([KEPT_SHARD], deep=True)[0].problems == ()
    same = {"file": "pages.jsonl", "licence": "CC0-1.0"}
    german = {"position": 1, "id": "a-1", "host": "example.co.uk", "language": "de", "date": "2024-02-01"}
    english = {"position": 3, "id": "a-2", "host": "xn--mnchen-3ya.de", "language": "en", "date": None}
    french = {"position": 4, "id": "3", "host": None, "language": "fr", "date": "2024-02-03"}
    authors = (None, "A. Author", None)
    assert rows_of(KEPT_SHARD) == [
        same | said | {"author": author} for said, author in zip((english, german, french), authors, strict=True)
    ]

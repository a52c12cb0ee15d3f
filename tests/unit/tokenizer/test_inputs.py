"""Every kind of input file gives the same documents, and a damaged one is refused by name."""

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fanal.files import BlockHasher
from tokenizer.__main__ import main
from tokenizer.documents import blocks as inputs_module
from tokenizer.documents.blocks import InputReader, Part
from tokenizer.documents.input_files import find_inputs
from tokenizer.documents.parse import DocumentReader, Fields, parse_block
from tokenizer.encoding.encode import encode
from tokenizer.encoding.merge import merge
from tokenizer.shards.manifest import read_manifest
from tokenizer.shards.shard import open_shard

TEXTS = ["one\r\ntwo", "é\0 \u2581 <s>", "👩‍👩‍👧 e\u0301", " ", "x" * 5000, "last\n"]


def lines(texts=TEXTS) -> bytes:
    return "".join(json.dumps({"text": text, "domain": "d"}) + "\n" for text in texts).encode()


WRITERS = {
    "a.jsonl": lambda path: path.write_bytes(lines()),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines())),
    "two members.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(TEXTS[:2])) + gzip.compress(lines(TEXTS[2:]))),
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(lines())),
    "two frames.jsonl.zst": lambda path: path.write_bytes(
        zstandard.compress(lines(TEXTS[:3])) + zstandard.compress(lines(TEXTS[3:]))
    ),
    "no last newline.ndjson": lambda path: path.write_bytes(lines()[:-1]),
    "crlf.json": lambda path: path.write_bytes(lines().replace(b"\n", b"\r\n")),
    "a.parquet": lambda path: pyarrow.parquet.write_table(
        pyarrow.table({"text": TEXTS, "domain": ["d"] * len(TEXTS), "other": range(len(TEXTS))}), path, row_group_size=2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("block_bytes", [7, 100, 1 << 22])
def test_every_format_gives_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block_bytes: int
) -> None:
    monkeypatch.setattr(inputs_module, "BLOCK_BYTES", block_bytes)
    path = tmp_path / name
    WRITERS[name](path)
    reader = DocumentReader([path])
    documents = list(reader)
    assert [document.text for document in documents] == TEXTS
    assert {document.domain for document in documents} == {"d"}
    assert reader.bytes_read == reader.total_bytes == path.stat().st_size
    (described,) = reader.input_files
    assert described.block_sha256 == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    wanted = f"{path} row 4" if name.endswith(".parquet") else f"{path}:5"
    assert documents[4].place == wanted
    assert len({document.position for document in documents}) == len(TEXTS)


def test_a_text_file_is_one_document_or_one_per_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é one\r\n\n  \ntwo\0\n".encode())
    assert [d.text for d in DocumentReader([path])] == ["é one\r\n\n  \ntwo\0\n"]
    by_line = list(DocumentReader([path], txt_documents="line"))
    assert [(d.text, d.place) for d in by_line] == [("é one", f"{path}:1"), ("two\0", f"{path}:4")]
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [d.text for d in DocumentReader([packed])] == ["é one\r\n\n  \ntwo\0\n"]


def test_bad_inputs_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "a.jsonl").write_bytes(lines())
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    for given_inputs, message in (
        (
            [tmp_path / "empty"],
            r"input folder .*empty holds no file of documents: it is empty; put files there .*\*.jsonl",
        ),
        ([tmp_path / "a.csv"], r"a.csv is a table as text: `python3 -c .*` makes JSON lines of it"),
        ([tmp_path / "a.jsonl", tmp_path / "link.jsonl"], r"link.jsonl is given twice \(also as .*a.jsonl\)"),
        ([tmp_path, tmp_path / "a.jsonl"], r"is given twice"),
    ):
        with pytest.raises(ValueError, match=message):
            find_inputs(given_inputs)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "not at all"])
def test_a_damaged_compressed_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content[:] = b"{}" * 20
    path.write_bytes(content)
    with pytest.raises(ValueError, match=name):
        texts = [d.text for d in DocumentReader([path])]
        if damage == "flipped" and not name.endswith(".gz") and texts == TEXTS:
            raise ValueError(f"{name}: the byte meant nothing, and only gzip has a checksum here")


def test_a_parquet_without_the_column_names_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"content": ["a"], "id": [1]}), path)
    with pytest.raises(ValueError, match=r"a.parquet has no column 'text'; its columns are content, id"):
        list(DocumentReader([path]))
    assert [d.text for d in DocumentReader([path], text_field="content")] == ["a"]


def test_a_parquet_row_without_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(ValueError, match=r"a.parquet row 1: field 'text' must be a string, found null"):
        list(DocumentReader([path]))


def test_field_names_may_be_chosen(tmp_path: Path, tokenizer_dir: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "hello", "kind": "k", "license": "l", "lang": "en", "text": 5}\n')
    fields = Fields(text="content", domain="kind", licence="license", language="lang")
    manifest = encode(tokenizer_dir, [path], tmp_path / "shard", fields=fields).manifest
    assert (manifest.domain, manifest.licence, manifest.language) == ("k", "l", "en")
    assert manifest.options.text_field == "content"


def test_a_line_longer_than_memory_should_hold_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "BLOCK_BYTES", 10)
    monkeypatch.setattr(inputs_module, "MAX_DOCUMENT_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["a"]) + lines(["b" * 200]))
    with pytest.raises(
        ValueError, match=r"a.jsonl:2: the line is longer than 100 bytes; cut this document into several"
    ):
        list(DocumentReader([path]))
    text = tmp_path / "a.txt"
    text.write_bytes(b"c" * 200)
    with pytest.raises(ValueError, match=r"a.txt as one document is longer than 100 bytes; --txt-documents line"):
        list(DocumentReader([text]))


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines())
    reader = DocumentReader([path])
    documents = iter(reader)
    next(documents)
    with path.open("ab") as stream:
        stream.write(lines())
    with pytest.raises(ValueError, match=r"a.jsonl had \d+ bytes and has \d+ now: it is being written"):
        list(documents)


@given(
    sizes=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=4),
    count=st.integers(1, 6),
    block_bytes=st.integers(1, 60),
    ends_with_newline=st.booleans(),
)
def test_parts_take_every_line_once_in_order_and_hash_every_byte_once(
    tmp_path_factory: pytest.TempPathFactory, sizes, count: int, block_bytes: int, ends_with_newline: bool
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    paths, texts = [], []
    for number, file_sizes in enumerate(sizes):
        paths.append(folder / f"{number}.txt")
        rows = [str(line % 10) * size for line, size in enumerate(file_sizes)] + ["end"]
        texts += [row for row in rows if row]
        paths[-1].write_text("\n".join(rows) + "\n" * ends_with_newline)
    whole = [d for block in InputReader(paths, txt_documents="line") for d in parse_block(block, Fields())]
    found, hashes = [], {str(path): "" for path in paths}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs_module, "BLOCK_BYTES", block_bytes)
        for module in ("fanal.files", "tokenizer.documents.compressed"):
            patch.setattr(f"{module}.HASH_BLOCK_BYTES", 16)
        for number in range(1, count + 1):
            reader = InputReader(paths, txt_documents="line", part=Part(number=number, count=count))
            found += [d for block in reader for d in parse_block(block, Fields())]
            for file in reader.input_files:
                expected = "" if file.first_block == 0 else hashes[file.path]
                assert len(expected) == 64 * file.first_block, "parts go on where the one before them ended"
                hashes[file.path] = expected + "".join(file.block_sha256)
        wanted = {}
        for path in paths:
            hasher = BlockHasher()
            hasher.update(path.read_bytes())
            wanted[str(path)] = "".join(hasher.hexdigests())
    assert [d.text for d in found] == texts == [d.text for d in whole]
    assert [(d.place, d.position) for d in found] == [(d.place, d.position) for d in whole]
    assert hashes == wanted


@pytest.mark.parametrize("workers", [1, 3])
def test_documents_that_cannot_be_read_are_left_out_counted_and_listed(
    tmp_path: Path, tokenizer_dir: Path, workers: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "one"}\nnonsense\n{"text": "two"}\n{"text": 3}\n{"text": ""}\n{"text": "\xff"}\n{"text": "\\ud800"}\n[1]\n'
    )
    report = encode(tokenizer_dir, [path], tmp_path / "shard", on_error="skip", num_workers=workers)
    assert [skipped.split(": ")[0] for skipped in report.skipped] == [f"{path}:{line}" for line in (2, 4, 5, 6, 7, 8)]
    assert (report.manifest.num_documents, report.manifest.num_skipped) == (2, 6)
    assert open_shard(tmp_path / "shard").num_documents == 2


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    mark = "\ufeff".encode()
    (tmp_path / "a.jsonl").write_bytes(mark + lines(["one", "\ufefftwo"]))
    (tmp_path / "a.txt").write_bytes(mark + b"one")
    assert [d.text for d in DocumentReader([tmp_path / "a.jsonl"])] == ["one", "\ufefftwo"]
    assert [d.text for d in DocumentReader([tmp_path / "a.txt"])] == ["one"]


def test_json_nested_beyond_measure_is_a_bad_line_like_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "m": ' + "[" * 200_000 + "]" * 200_000 + "}\n")
    with pytest.raises(ValueError, match=r"a.jsonl:1: not a line of JSON"):
        list(DocumentReader([path]))


def test_a_name_that_is_no_utf8_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.jsonl"
    path.write_bytes(lines())
    with pytest.raises(ValueError, match=r"has a name that is not UTF-8"):
        find_inputs([path])


def test_a_parquet_row_has_the_length_limit_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.documents.parse.MAX_DOCUMENT_BYTES", 40)
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 40, "é" * 20, "é" * 20 + "x"]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet row 2: field 'text' is longer than 40 bytes; cut this document"):
        list(DocumentReader([path]))


def test_a_parquet_of_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["one", "two"]})
    pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"two", b"t\xff\xff"))
    with pytest.raises(ValueError, match=r"a\.parquet .*Invalid UTF8"):
        list(DocumentReader([path]))


def test_large_parquet_rows_come_in_small_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [chr(97 + number % 26) * 1_000_000 for number in range(40)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, compression="none", use_dictionary=False)
    reader = InputReader([path])
    sizes, progress = [], []
    for block in reader:
        sizes.append(len(block.data))
        progress.append(reader.bytes_read)
    assert max(sizes) < 6e6
    assert progress == sorted(progress) and progress[0] < 0.2 * path.stat().st_size


def test_a_kilobyte_that_unpacks_to_megabytes_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(lines(["x" * 1000]) * 200_000))
    sizes = [len(block.data) for block in InputReader([path])]
    assert sum(sizes) == 200_000 * len(lines(["x" * 1000])) and max(sizes) < 80e6


def test_a_field_that_is_given_twice_is_counted_with_its_place(
    tmp_path: Path, tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "one", "type": "text", "meta": {"text": "x", "licence": "y"}, "id": 1, "id": 2, "licence": "a"}\n'
        '{"text": "lost", "text": "two", "licence": "a"}\n{"text": "\\"text\\": three", "licence": "a"}\n{"text": "four", "licence": null, "licence": "a"}\n'
    )
    report = encode(tokenizer_dir, [path], tmp_path / "x", num_workers=1)
    assert report.repeated == (f"{path}:2: 'text'", f"{path}:4: 'licence'")
    assert read_manifest(tmp_path / "x").num_repeated_fields == 2
    assert (
        main(["encode", "--tokenizer", str(tokenizer_dir), "--input", str(path), "--output", str(tmp_path / "y")]) == 0
    )
    err = capsys.readouterr().err
    assert (
        f"y: warning: 2 documents give a field more than once, and the last one was taken:\n  {path}:2: 'text'\n" in err
    )
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, prefix in enumerate(parts, start=1):
        encode(tokenizer_dir, [path], prefix, part=Part(number=number, count=2))
    assert merge(parts, tmp_path / "merged").num_repeated_fields == 2
    path.write_text('{"text": "a", "text": "b"}\n' * 50)
    report = encode(tokenizer_dir, [path], tmp_path / "many")
    assert (report.manifest.num_repeated_fields, len(report.repeated), report.repeated[-1]) == (
        50,
        20,
        f"{path}:20: 'text'",
    )


def test_a_line_of_text_ends_with_a_line_feed_or_a_carriage_return_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n\r\nt\rw\ro\r\r\nthree\r")
    assert [d.text for d in DocumentReader([path], txt_documents="line")] == ["one", "t\rw\ro\r", "three"]

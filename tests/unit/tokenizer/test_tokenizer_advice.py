"""What the tokenizer's commands advise in an error works when it is followed to the letter."""

import bz2
import csv
import gzip
import json
import lzma
import re
import shlex
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
import zstandard

from tokenizer.__main__ import main
from tokenizer.documents.file_names import known_layout
from tokenizer.documents.parse import DocumentReader
from tokenizer.vocabulary.spec import load_spec

TEXTS = ["one", "two\nlines", "é 🙂"]
ROWS = [{"text": text, "id": str(number)} for number, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = pyarrow.table({"text": TEXTS})
SQL = bytes(range(256)) * 40


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose name needs quotes."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(tokenizer_dir: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line with which `encode` refuses an input; its exit code is 2."""

    def encode(*inputs: str) -> str:
        named = inputs if inputs[0].startswith("--input=") else ("--input", *inputs)
        words = ["--tokenizer", str(tokenizer_dir), *named, "--output", "out/x"]
        assert main(["encode", *words]) == 2
        (said,) = capfd.readouterr().err.splitlines()
        assert said.startswith("error: ") and not list(Path.cwd().glob("out/*"))
        for word in ("NoneType", "dict", "list", "bool", "Traceback"):
            assert not re.search(rf"\b{word}\b", said.replace("json.tool", "")), said
        return said

    return encode


def follow(said: str) -> None:
    """Run the commands of a message."""
    for command in re.findall(r"`([^`]+)`", said):
        subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)


def arrow(path: Path, new: Callable) -> None:
    with pyarrow.OSFile(str(path), "wb") as sink, new(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)


def table(path: Path, delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text", "id"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner/a.jsonl", LINES)


FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    # name: (how it is written, what the message calls it, the input that works then)
    "a b.csv": (lambda p: table(p, ","), "is a table as text", "a b.jsonl"),
    "a.tsv": (lambda p: table(p, "\t"), "is a table as text", "a.jsonl"),
    "stream.arrow": (lambda p: arrow(p, pyarrow.ipc.new_stream), "is a table of Arrow", "stream.parquet"),
    "file.arrow": (lambda p: arrow(p, pyarrow.ipc.new_file), "is a table of Arrow", "file.parquet"),
    "a.jsonl.xz": (lambda p: p.write_bytes(lzma.compress(LINES.encode())), "has a compression", "a.jsonl"),
    "a.json.bz2": (lambda p: p.write_bytes(bz2.compress(LINES.encode())), "has a compression", "a.json"),
    "a.zip": (zipped, "is an archive", "a"),
    "array.json": (lambda p: p.write_text(json.dumps(ROWS)), "is one JSON array", "array.lines.jsonl"),
    "pretty array.json": (lambda p: p.write_text(json.dumps(ROWS, indent=2)), "is one JSON array", "pretty array.lines.jsonl"),
    "marked array.json": (lambda p: p.write_text(json.dumps(ROWS), "utf-8-sig"), "is one JSON array", "marked array.lines.jsonl"),
    "array.json.gz": (lambda p: p.write_bytes(gzip.compress(json.dumps(ROWS).encode())), "is one JSON array", "array.lines.jsonl"),
    "array.json.zstd": (lambda p: p.write_bytes(zstandard.compress(json.dumps(ROWS).encode())), "is one JSON array", "array.lines.jsonl"),
    "pretty.json": (
        lambda p: p.write_text("\n".join(json.dumps(row, indent=4) for row in ROWS)), "is JSON over several lines", "pretty.lines.jsonl",
    ),
    "on one line.jsonl": (
        lambda p: p.write_text("".join(json.dumps(row) for row in ROWS)), "is JSON over several lines", "on one line.lines.jsonl",
    ),
    "utf-16.jsonl": (lambda p: p.write_text(LINES, "utf-16"), "is in UTF-16, not UTF-8", "utf-16.utf8.jsonl"),
    "big-endian.jsonl": (lambda p: p.write_text("\ufeff" + LINES, "utf-16-be"), "is in UTF-16,", "big-endian.utf8.jsonl"),
    "no mark.jsonl": (lambda p: p.write_text(LINES, "utf-16-le"), "is in UTF-16LE,", "no mark.utf8.jsonl"),
    "utf-32.jsonl": (lambda p: p.write_text(LINES, "utf-32"), "is in UTF-32,", "utf-32.utf8.jsonl"),
    "utf-16.jsonl.gz": (lambda p: p.write_bytes(gzip.compress(LINES.encode("utf-16"))), "is in UTF-16,", "utf-16.utf8.jsonl"),
    "no gzip.jsonl.gz": (lambda p: p.write_text(LINES), "is not compressed, in spite of its name", "no gzip.jsonl"),
    "no zstd.jsonl.zst": (lambda p: p.write_text(LINES), "is not compressed, in spite of its name", "no zstd.jsonl"),
    "zstd.jsonl.gz": (lambda p: p.write_bytes(zstandard.compress(LINES.encode())), "holds Zstandard,", "zstd.jsonl.zst"),
    "gzip.jsonl.zst": (lambda p: p.write_bytes(gzip.compress(LINES.encode())), "holds gzip,", "gzip.jsonl.gz"),
    "gzip.jsonl": (lambda p: p.write_bytes(gzip.compress(LINES.encode())), "holds gzip,", "gzip.jsonl.gz"),
    "rows.jsonl": (lambda p: pyarrow.parquet.write_table(TABLE, p), "holds Parquet,", "rows.parquet"),
    "rows.parquet": (lambda p: p.write_text(LINES), "holds JSON lines, not Parquet", "rows.jsonl"),
    "no suffix": (lambda p: p.write_text(LINES), "holds JSON lines under an unknown suffix", "no suffix.jsonl"),
    "a.dat": (lambda p: p.write_text(LINES), "holds JSON lines under an unknown suffix", "a.dat.jsonl"),
    "inside.gz": (lambda p: p.write_bytes(gzip.compress(LINES.encode())), "does not say in its name what it holds", "inside.jsonl.gz"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_strange_file_is_called_what_it_is_and_the_command_in_the_message_makes_it_readable(
    here: Path, refused: Callable[..., str], name: str
) -> None:
    write, what, works = FILES[name]
    write(here / name)
    said = refused(name)
    assert f"{name} {what}" in said
    follow(said)
    assert [document.text for document in DocumentReader([works])] == TEXTS


@pytest.mark.parametrize("name", ["a.text", "notes"])
def test_a_text_of_an_unknown_name_is_one_document_once_it_is_renamed(
    here: Path, refused: Callable[..., str], name: str
) -> None:
    (here / name).write_text("some text")
    follow(refused(name))
    assert [document.text for document in DocumentReader([f"{name}.txt"])] == ["some text"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.dat", SQL, "has an unknown suffix and holds no text"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html>", "is a web page"),
        ("a.7z", b"7z\xbc\xaf", "has a compression that is not supported; unpack it"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], "cannot be decompressed .*: it was cut or changed; copy the file again"),
        ("a.parquet", SQL, "cannot be read as Parquet .*; copy the file again"),
    ],
)  # fmt: skip
def test_a_file_that_no_command_mends_is_called_what_it_is(
    here: Path, refused: Callable[..., str], name: str, content: bytes, says: str
) -> None:
    (here / name).write_bytes(content)
    assert re.search(says, refused(name))


@pytest.mark.parametrize(
    ("encoding", "says"), [("cp1252", "not UTF-8 (byte 0xe9, number 4, begins"), ("utf-16", "is in UTF-16")]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_text_of_another_encoding_is_converted_by_the_command_in_the_message(
    here: Path, refused: Callable[..., str], encoding: str, says: str, packed: bool
) -> None:
    content = "un été".encode(encoding)
    name = "a b.txt.gz" if packed else "a b.txt"
    (here / name).write_bytes(gzip.compress(content) if packed else content)
    said = refused(name)
    assert says in said
    follow(said)
    assert [document.text for document in DocumentReader(["a b.utf8.txt"])] == ["un été"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            '{"content": "long text", "id": "1"}',
            "found no such field (fields here: content, id); --text-field content works",
        ),
        (
            '{"text": null, "body of it": "x"}',
            "found null (fields here: body of it, text); --text-field 'body of it' works",
        ),
    ],
)
def test_the_field_that_holds_the_text_is_named(
    here: Path, tokenizer_dir: Path, refused: Callable[..., str], line: str, says: str
) -> None:
    (here / "a.jsonl").write_text(f"{line}\n")
    said = refused("a.jsonl")
    assert says in said
    advised = shlex.split(re.search(r"(--text-field .*?) works", said)[1])  # type: ignore[index]
    words = ["--tokenizer", str(tokenizer_dir), "--input", "a.jsonl", *advised]
    assert main(["encode", *words, "--output", "x"]) == 0
    assert main(["check", *words]) == 0


def test_the_column_that_holds_the_text_is_named(here: Path, tokenizer_dir: Path, refused: Callable[..., str]) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "content": ["a"]}), "a.parquet")
    assert "has no column 'text'; its columns are id, content: --text-field content works" in refused("a.parquet")
    words = ["--tokenizer", str(tokenizer_dir), "--input", "a.parquet", "--text-field", "content", "--output", "x"]
    assert main(["encode", *words]) == 0


BROKEN = {
    "nonsense": "not a line of JSON in UTF-8 (Expecting value, at character 1)",
    '{"text": "a"': "not a line of JSON in UTF-8 (Expecting ',' delimiter, at character 13)",
    "null": "found null, expected an object",
    "[1]": "found an array, expected an object",
    '"x"': "found a string, expected an object",
    "true": "found a boolean, expected an object",
    '{"text": {"a": 1}}': "must be a string, found an object (fields here: text)",
    '{"text": ["a"]}': "must be a string, found an array",
    '{"text": 1.5}': "must be a string, found a number",
    '{"text": ""}': "field 'text' is empty",
    '{"text": "a", "licence": ["MIT"]}': "field 'licence' must be a string if given, found an array",
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_document_is_named_in_the_words_of_json_and_skip_leaves_it_out(
    here: Path, tokenizer_dir: Path, refused: Callable[..., str], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "a.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    said = refused("a.jsonl")
    assert f"a.jsonl:2: {BROKEN[line]}" in said or BROKEN[line] in said
    assert "--on-error skip leaves out what cannot be read" in said
    words = ["--tokenizer", str(tokenizer_dir), "--input", "a.jsonl", "--on-error", "skip", "--output", "x"]
    assert main(["encode", *words]) == 0
    assert "left out 1 documents" in capfd.readouterr().err
    assert main(["check", *words[:4]]) == (0 if "licence" in line else 2), "check needs no licence"
    assert "--on-error" not in capfd.readouterr().err, "check has no such option"


def test_a_label_of_another_type_is_said_for_all_as_the_message_has_it(
    here: Path, tokenizer_dir: Path, refused: Callable[..., str]
) -> None:
    (here / "a.jsonl").write_text('{"text": "x", "licence": ["MIT"]}\n{"text": "y", "licence": "BSD"}\n')
    assert "`encode --licence NAME` says it for all documents" in refused("a.jsonl")
    words = ["--tokenizer", str(tokenizer_dir), "--input", "a.jsonl", "--licence", "MIT", "--output", "x"]
    assert main(["encode", *words]) == 0


def test_a_missing_input_is_named_with_what_is_there(here: Path, refused: Callable[..., str]) -> None:
    for name in ("data/corpus/fr/a.jsonl", "data/corpus/en/a.jsonl", "data/corpus/notes.md"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(LINES)
    assert "input data/corpsu does not exist; did you mean data/corpus?" in refused("data/corpsu")
    assert "a.json does not exist; did you mean data/corpus/en/a.jsonl?" in refused("data/corpus/en/a.json")
    assert f"{here}/data/corpus is there, has no de, and holds en, fr" in refused("data/corpus/de/x.jsonl")
    assert "is there, has no elsewhere, and holds data" in refused("elsewhere/corpus")
    (here / "none").mkdir()
    assert "is there, has no a.jsonl, and holds nothing that fits" in refused("none/a.jsonl")
    assert refused("none").endswith("holds no file of documents: it is empty; put files there that are named *.jsonl, "
                                    "*.ndjson, *.json or *.txt (with or without .gz or .zst), or *.parquet")  # fmt: skip


def test_a_broken_link_is_called_one_and_its_target_brings_it_back(here: Path, refused: Callable[..., str]) -> None:
    (here / "a.jsonl").symlink_to("gone.jsonl")
    assert "a.jsonl is a link to gone.jsonl, which leads to no file; bring back gone.jsonl" in refused("a.jsonl")
    (here / "gone.jsonl").write_text(LINES)
    assert len(list(DocumentReader(["a.jsonl"]))) == 3


IN_FOLDERS = [name for name in FILES if known_layout(Path(name), "file") or name.endswith((".xz", ".bz2"))]


@pytest.mark.parametrize("name", IN_FOLDERS)
def test_a_strange_file_stops_its_folder_until_the_command_in_the_message_has_run(
    here: Path, refused: Callable[..., str], name: str
) -> None:
    (here / "in").mkdir()
    FILES[name][0](here / "in" / name)
    follow(refused("in"))
    assert [document.text for document in DocumentReader(["in"])] == TEXTS


@pytest.mark.parametrize("name", ["-a.csv", "-a.json", "-a.jsonl.xz"])
def test_a_name_that_begins_with_a_hyphen_is_no_option_in_a_command(
    here: Path, refused: Callable[..., str], name: str
) -> None:
    FILES["a b.csv" if name == "-a.csv" else "array.json" if name == "-a.json" else "a.jsonl.xz"][0](here / name)
    follow(refused(f"--input={name}"))
    works = {"-a.json": "-a.lines.jsonl"}.get(name, "-a.jsonl")
    assert [document.text for document in DocumentReader([works])] == TEXTS


def test_a_link_to_a_folder_outside_is_read_as_the_message_says(here: Path, refused: Callable[..., str]) -> None:
    for name in ("in", "out of it"):
        (here / name).mkdir()
        (here / name / "a.jsonl").write_text(LINES)
    (here / "in" / "link").symlink_to("../out of it")
    advised = re.search(r"or name (.*) as an --input too", refused("in"))[1]  # type: ignore[index]
    assert len(list(DocumentReader(["in", advised]))) == 6


def test_a_missing_spec_is_refused_with_one_that_works_from_any_folder(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "spec.yaml", "--input", "a.jsonl", "--output", "tokenizer"]) == 2
    works = re.search(r"does not exist; (.*) is a small one that works", capfd.readouterr().err)
    assert works and load_spec(works[1]).vocab_size == 2000


def test_a_missing_tokenizer_is_refused_with_the_folder_that_may_be_meant(
    here: Path, tokenizer_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "a.jsonl").write_text(LINES)
    wrong = tokenizer_dir.with_name("smal")
    assert main(["check", "--tokenizer", str(wrong), "--input", "a.jsonl"]) == 2
    works = re.search(r"smal does not exist; did you mean (.*)\?", capfd.readouterr().err)
    assert works and main(["check", "--tokenizer", works[1], "--input", "a.jsonl"]) == 0


@pytest.mark.parametrize("vocab_size", [258, 60000])
def test_a_size_of_vocabulary_that_the_text_cannot_give_is_refused_with_one_that_it_can(
    here: Path, vocab_size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"the cat {n} sat on the mat"}) + "\n" for n in range(200))
    )
    words = ["train", "spec.yaml", "--input", "a.jsonl", "--output", "tokenizer"]
    (here / "spec.yaml").write_text(f"vocab_size: {vocab_size}\n")
    assert main(words) == 2
    said = capfd.readouterr().err
    assert "--character_coverage" not in said and "coverage option" not in said
    works = re.search(r"vocab_size: (\d+) works", said)
    assert works, said
    (here / "spec.yaml").write_text(f"{works[0].removesuffix(' works')}\n")
    assert main(words) == 0


def test_a_command_in_a_message_takes_the_place_of_no_other_file(here: Path, refused: Callable[..., str]) -> None:
    (here / "n.jsonl.gz").write_text(LINES)
    (here / "n.jsonl").write_text("another")
    said = refused("n.jsonl.gz")
    assert "`mv n.jsonl.gz n-2.jsonl`" in said
    (here / "t.csv").write_text("text\nx\n")
    (here / "t.jsonl").write_text("another")
    assert "> t-2.jsonl`" in refused("t.csv")

import hashlib
import json
from pathlib import Path

import pytest

from tokenizer.documents.parse import DocumentReader


def test_documents_come_in_order_with_labels_and_places(tmp_path: Path, write_documents) -> None:
    first = write_documents(tmp_path / "a.jsonl", ["one", {"text": "é", "domain": "code"}])
    second = write_documents(tmp_path / "b.jsonl", ["three"])
    documents = list(DocumentReader([first, second]))
    assert [d.text for d in documents] == ["one", "é", "three"]
    assert [(d.domain, d.licence) for d in documents] == [("prose", "CC0-1.0"), ("code", None), ("prose", "CC0-1.0")]
    assert [d.place for d in documents] == [f"{first}:1", f"{first}:2", f"{second}:1"]
    assert documents[1].num_bytes == 2


def test_input_files_carry_the_hash_of_what_was_read(tmp_path: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["one", "two"])
    reader = DocumentReader([path])
    list(reader)
    (described,) = reader.input_files
    assert described.block_sha256 == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    assert described.bytes == path.stat().st_size == reader.bytes_read == reader.total_bytes


def test_unusual_line_ends_and_control_characters_stay_in_the_text(tmp_path: Path) -> None:
    text = "a\r\nb\u2028c\x85d\0e\ufeff"
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    assert [d.text for d in DocumentReader([path])] == [text]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "not a line of JSON in UTF-8"),
        (b'{"text": "\xff"}', "not a line of JSON in UTF-8"),
        (b'["text"]', "found an array, expected an object with field 'text'"),
        (b'{"content": "a"}', "field 'text' must be a string, found no such field (fields here: content)"),
        (b'{"text": 3}', "field 'text' must be a string, found an integer"),
        (b'{"text": ""}', "field 'text' is empty"),
        (b'{"text": "ab\\ud800"}', r"the lone surrogate '\ud800' at character 2"),
        (b'{"text": "a", "domain": 3}', "field 'domain' must be a string if given, found an integer"),
    ],
)
def test_a_bad_line_is_refused_with_file_and_line_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(ValueError) as caught:
        list(DocumentReader([path]))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def test_blank_lines_are_no_documents_and_are_counted_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "one"}\r\n \n{"text": "two"}\n\n')
    assert [(d.text, d.place) for d in DocumentReader([path])] == [("one", f"{path}:2"), ("two", f"{path}:4")]


def test_an_empty_missing_or_repeated_file_is_refused_by_name(tmp_path: Path, write_documents) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["one"])
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.jsonl is empty; every input file must hold at least one document"):
        list(DocumentReader([path, empty]))
    with pytest.raises(ValueError, match=r"none\.jsonl does not exist"):
        DocumentReader([tmp_path / "none.jsonl"])
    with pytest.raises(ValueError, match=r"a\.jsonl is given twice"):
        DocumentReader([path, path])
    with pytest.raises(ValueError, match="no input file was given"):
        DocumentReader([])

"""Documents as texts with labels, parsed from the blocks of blocks.py.

`{"text": "...", "domain": "code", "licence": "PSF-2.0", "language": "en"}`; only the text is required. It is kept to the
letter: no character is removed or replaced, `\\r` and NUL included (byte fallback tokens give them back).
"""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import orjson

from fanal.errors import UserError
from fanal.files import InputFile
from fanal.shown import kind_of
from tokenizer.documents.blocks import MAX_DOCUMENT_BYTES, InputReader, RawBlock
from tokenizer.documents.file_names import TxtDocuments
from tokenizer.documents.unreadable import converted

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""UTF-8 byte order mark; at the start of a file it marks the encoding and is not text."""
LABELS = ("domain", "licence", "language")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of the fields (or columns) of a document; None for a label that is not asked of the documents."""

    text: str = "text"
    domain: str | None = "domain"
    licence: str | None = "licence"
    language: str | None = "language"
    also: tuple[str, ...] = ()
    """Further fields, which are taken along as they are."""

    @property
    def said(self) -> tuple[str, ...]:
        """Names of the fields that must be right, the text first."""
        return (self.text, *(name for name in (self.domain, self.licence, self.language) if name is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        """All field names that are read, the text first."""
        return tuple(dict.fromkeys((*self.said, *self.also)))

    def asking(self, labels: Sequence[str]) -> "Fields":
        """Return the fields without the labels that are not among these: nobody looks at what a document says of them."""
        return replace(self, **{name: None for name in LABELS if name not in labels})


class Document(NamedTuple):
    """One text and where it came from."""

    text: str
    """Text of the document: not empty, and valid UTF-8 (no lone surrogates)."""
    domain: str | None
    """Kind of text, for reports by domain; None if the document does not say."""
    licence: str | None
    """Licence identifier, SPDX where there is one; None if the document does not say."""
    language: str | None
    """ISO 639 code; None if the document does not say."""
    position: int
    """Start of the document in its file: byte of the decompressed content, or row. No other document of the file has
    the same."""
    block: RawBlock
    number: int
    """Number of lines or rows before the document in its block."""
    also: tuple[Any, ...] = ()
    """Values of ``Fields.also``; empty for a document that has no fields."""

    @property
    def num_bytes(self) -> int:
        """Length of the text in UTF-8 bytes."""
        return len(self.text.encode("utf-8"))

    @property
    def position_in_file(self) -> int:
        """Line from 1, counted from where this part's share of the file begins; row from 0; or 0 where the file is the document."""
        if self.block.share_line is not None:
            return self.block.share_line + self.number
        return self.position

    @property
    def where(self) -> "Place":
        """Place of the document, without its text."""
        return Place(replace(self.block, data=b""), self.number)

    @property
    def place(self) -> str:
        """Place of the document as `FILE:LINE`, for messages."""
        return place_of(self.block, self.number)


class Place(NamedTuple):
    """Place of a document; `str` gives `FILE:LINE`, which for a part of a file may mean to read what is before it."""

    block: RawBlock
    number: int

    def __str__(self) -> str:
        return place_of(self.block, self.number)


Report = Callable[[str], None]
"""Callback that receives what is wrong with a document, place first: it raises, or counts and lets the reader continue."""


def stop(problem: str) -> NoReturn:
    """Raise UserError with the problem: the strict Report."""
    raise UserError(problem)


def place_of(block: RawBlock, number: int) -> str:
    """Return `FILE:LINE`, `FILE row N` or `FILE` for a document of a block."""
    if block.layout == "text file" or block.of_file:
        return block.path
    if block.layout == "parquet rows":
        return f"{block.path} row {block.first + number}"
    return f"{block.path}:{block.line_number(number)}"


def parse_block(block: RawBlock, fields: Fields, report: Report = stop) -> Iterator[Document]:
    """Yield the documents of a block, in order; bad documents go to ``report`` and, if it lets them pass, are left out."""
    if block.problem is not None:
        report(f"{place_of(block, 0)}{'' if block.of_file else ':'} {block.problem}")
    elif block.layout == "parquet rows":
        from tokenizer.documents.parquet import rows

        for number, row in enumerate(rows(block.data)):
            found = _from_object(row, fields, block, number, block.first + number)
            if isinstance(found, Document):
                yield found
            else:
                report(found)
    elif block.layout == "text file":
        found = _from_text(block.data.removeprefix(BYTE_ORDER_MARK), block, 0, 0)
        if isinstance(found, Document):
            yield found
        else:
            report(found)
    else:
        data = block.data.removeprefix(BYTE_ORDER_MARK) if block.first == 0 else block.data
        parse = _from_json if block.layout == "json lines" else _from_line
        position = block.first
        for number, line in enumerate(data.split(b"\n")):
            if line and not line.isspace():
                found = parse(line, fields, block, number, position)
                if isinstance(found, Document):
                    yield found
                else:
                    report(found)
            position += len(line) + 1


def _from_json(line: bytes, fields: Fields, block: RawBlock, number: int, position: int) -> Document | str:
    try:
        content = orjson.loads(line)
    except ValueError:
        try:  # the standard library takes a few things more (NaN, a lone surrogate) and words its errors for users
            content = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as problem:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            return (
                f"{place_of(block, number)}: not a line of JSON in UTF-8 ({_in_words(problem)}); fix or remove the line"
            )
        text = content.get(fields.text) if isinstance(content, dict) else None
        if isinstance(text, str) and (problem := _problem_of_surrogates(text, fields)):
            return f"{place_of(block, number)}: {problem}"
    if not isinstance(content, dict):
        return (
            f"{place_of(block, number)}: found {kind_of(content)}, expected an object with field {fields.text!r}; fix or remove "
            "the line"
        )
    return _from_object(content, fields, block, number, position)


def _in_words(problem: ValueError | RecursionError) -> str:
    """Return what is wrong with a line of JSON, without the line number 1 that its parser gives it."""
    if isinstance(problem, json.JSONDecodeError):
        return f"{problem.msg}, at character {problem.pos + 1}"
    if isinstance(problem, UnicodeDecodeError):
        return f"byte 0x{problem.object[problem.start]:02x}, number {problem.start + 1}, begins no character"
    return "nested too deeply" if isinstance(problem, RecursionError) else str(problem)


def _from_object(
    content: dict[str, Any], fields: Fields, block: RawBlock, number: int, position: int
) -> Document | str:
    text = content.get(fields.text)
    if problem := _problem_of_text(text, content, fields):
        return f"{place_of(block, number)}: {problem}"
    labels = [None if name is None else content.get(name) for name in (fields.domain, fields.licence, fields.language)]
    for label, name, value in zip(LABELS, (fields.domain, fields.licence, fields.language), labels, strict=True):
        if value is not None and not isinstance(value, str):
            return (
                f"{place_of(block, number)}: field {name!r} must be a string if given, found {kind_of(value)}; make it a string, "
                f"or `encode --{label} NAME` says it for all documents"
            )
    also = tuple(map(content.get, fields.also)) if fields.also else ()
    return Document(text, *labels, position, block, number, also)  # type: ignore[arg-type]


def _problem_of_text(text: Any, content: dict[str, Any], fields: Fields) -> str | None:
    if not isinstance(text, str):
        found = "no such field" if fields.text not in content else kind_of(text)
        names = ", ".join(sorted(content)) or "none"
        return f"field {fields.text!r} must be a string, found {found} (fields here: {names}){_other_field(content, fields)}"
    if not text:
        return f"field {fields.text!r} is empty; a document has at least one character, remove it"
    if len(text) > MAX_DOCUMENT_BYTES // 4 and len(text.encode("utf-8", "surrogatepass")) > MAX_DOCUMENT_BYTES:
        return f"field {fields.text!r} is longer than {MAX_DOCUMENT_BYTES} bytes; cut this document into several"
    return None


def _other_field(content: dict[str, Any], fields: Fields) -> str:
    """Return advice that names the field with the longest text; empty if there is none."""
    labels = (fields.domain, fields.licence, fields.language)
    texts = {name: text for name, text in content.items() if isinstance(text, str) and text and name not in labels}
    if not texts:
        return "; fix or remove the line"
    return f"; --text-field {shlex.quote(max(texts, key=lambda name: len(texts[name])))} works here"


def _problem_of_surrogates(text: str, fields: Fields) -> str | None:
    """Describe a lone surrogate in the text; None if there is none. Only the standard library's JSON lets one pass."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        lone = text[problem.start]
        return (
            f"field {fields.text!r} holds the lone surrogate {lone!a} at character {problem.start}, which UTF-8 cannot "
            "hold; replace it with U+FFFD or remove the document"
        )
    return None


def repeated_fields(block: RawBlock, fields: Fields, documents: Sequence[Document]) -> tuple[tuple[Place, str], ...]:
    """Return place and fields of each document in a block of JSON lines whose JSON gives a field that is read more than once: the
    last one is taken, and the others are lost.

    Costs a search of the block for each field that its documents give: 0.5 ms a MB. Only where a name occurs more often than that
    are lines looked at.
    """
    if block.layout != "json lines":
        return ()
    given = {fields.text: len(documents)}  # field: how many documents give it
    for at, name in enumerate((fields.domain, fields.licence, fields.language), start=1):
        if name is not None and (count := sum(document[at] is not None for document in documents)):
            given[name] = count
    names = {name: json.dumps(name, ensure_ascii=False).encode() for name in given}
    suspects = [names[name] for name, count in given.items() if block.data.count(names[name]) > count]
    if not suspects:
        return ()
    found = []
    for number, line in enumerate(block.data.split(b"\n")):
        if any(line.count(name) > 1 for name in suspects) and (twice := _given_twice(line, fields)):
            found.append((Place(replace(block, data=b""), number), ", ".join(map(repr, twice))))
    return tuple(found)


def _given_twice(line: bytes, fields: Fields) -> list[str]:
    """Return the fields that an object gives more than once, by the parser that shows all pairs."""
    last: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> None:
        last[:] = pairs  # the outermost object comes last

    try:
        json.loads(line.removeprefix(BYTE_ORDER_MARK), object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return []  # no document
    names = [name for name, _ in last]
    return [name for name in fields.said if names.count(name) > 1]


def _from_line(line: bytes, fields: Fields, block: RawBlock, number: int, position: int) -> Document | str:
    return _from_text(line.removesuffix(b"\r"), block, number, position)  # a line ends with "\n" or "\r\n"


def _from_text(data: bytes, block: RawBlock, number: int, position: int) -> Document | str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        todo = converted(Path(block.path), "CP1252")
        return f"{place_of(block, number)}: not UTF-8 ({_in_words(problem)}); {todo} converts a file of Windows"
    if not text:
        return f"{place_of(block, number)}: holds no text; remove it"
    return Document(text, None, None, None, position, block, number)


class DocumentReader:
    """Iterator over the documents of some files, once, in the order given.

    Args: labels, those that are read; what a document says of the others does not matter.
    Attributes: total_bytes (of all files), bytes_read (so far), input_files (each file whose end was reached, with the
    hashes of the very bytes that were read). Raises: UserError naming file and line of the first bad document.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        text_field: str = "text",
        *,
        labels: Sequence[str] = LABELS,
        txt_documents: TxtDocuments = "file",
    ) -> None:
        self.fields = Fields(text=text_field).asking(labels)
        self._reader = InputReader(inputs, columns=self.fields.columns, txt_documents=txt_documents)

    @property
    def total_bytes(self) -> int:
        return self._reader.total_bytes

    @property
    def bytes_read(self) -> int:
        return self._reader.bytes_read

    @property
    def input_files(self) -> list[InputFile]:
        return self._reader.input_files

    def __iter__(self) -> Iterator[Document]:
        for block in self._reader:
            yield from parse_block(block, self.fields)


def batches(documents: Iterable[Document], batch_bytes: int) -> Iterator[list[Document]]:
    """Yield documents in order, in lists of at least batch_bytes of text (the last may have less)."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.num_bytes
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

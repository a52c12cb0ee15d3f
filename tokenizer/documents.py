"""Documents as they arrive: JSON lines, one object per line.

`{"text": "...", "domain": "code", "licence": "PSF-2.0", "source": "ast.py"}`; only the text is required. It is kept to
the letter: no character is removed or replaced, `\\r` and NUL included (byte fallback tokens give them back).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizer.files import InputFile


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text and where it came from."""

    text: str
    """Not empty, and valid UTF-8 (no lone surrogates)."""
    num_bytes: int
    """Length of the text in UTF-8 bytes."""
    domain: str | None
    """Kind of text, for reports by domain; None if the line has no such field."""
    licence: str | None
    """Licence identifier, SPDX where there is one; None if the line has no such field."""
    place: str
    """`FILE:LINE`, for messages."""


class DocumentReader:
    """Iterates over the documents of jsonl files, once, in the order given, one line in memory at a time.

    Attributes: total_bytes (of all files), bytes_read (so far), input_files (each file whose end was reached, with the
    hash of the very bytes that were read). A reader is spent after one pass.
    Raises: ValueError naming file and line for a missing, repeated or empty file, a broken line, a line without text.
    """

    def __init__(self, inputs: Sequence[str | Path], text_field: str = "text") -> None:
        if not inputs:
            raise ValueError("no input file was given; name at least one .jsonl file")
        self.paths = [Path(path) for path in inputs]
        self.text_field = text_field
        for position, path in enumerate(self.paths):
            if not path.is_file():
                raise ValueError(f"input file {path} does not exist or is not a file; name an existing .jsonl file")
            if path in self.paths[:position]:
                raise ValueError(f"input file {path} is given twice; its documents would be read twice, name it once")
        self.total_bytes = sum(path.stat().st_size for path in self.paths)
        self.bytes_read = 0
        self.input_files: list[InputFile] = []

    def __iter__(self) -> Iterator[Document]:
        assert self.bytes_read == 0, "a DocumentReader is read once; make a new one"
        for path in self.paths:
            digest = hashlib.sha256()
            file_bytes = 0
            # Binary, because only "\n" ends a line here: text mode would also cut at "\r".
            with path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    digest.update(line)
                    file_bytes += len(line)
                    self.bytes_read += len(line)
                    yield parse_line(line, f"{path}:{number}", self.text_field)
            if not file_bytes:
                raise ValueError(f"{path} is empty; every input file must hold at least one document, leave it out")
            self.input_files.append(InputFile(path=str(path), bytes=file_bytes, sha256=digest.hexdigest()))


def parse_line(line: bytes, place: str, text_field: str) -> Document:
    """One document from one line.

    Args: place is `FILE:LINE`, for the message.
    Raises: ValueError if the line is not a JSON object with a non-empty text that UTF-8 can hold.
    """
    try:
        fields = json.loads(line)
    except ValueError as problem:  # JSONDecodeError and UnicodeDecodeError both are
        raise ValueError(f"{place}: not a line of JSON in UTF-8 ({problem}); mend or remove the line") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{place}: found a JSON {type(fields).__name__}, expected an object with field {text_field!r}")
    text = fields.get(text_field)
    if not isinstance(text, str):
        found = "no such field" if text_field not in fields else f"a {type(text).__name__}"
        names = ", ".join(sorted(fields)) or "none"
        raise ValueError(f"{place}: field {text_field!r} must be a string, found {found} (fields here: {names})")
    if not text:
        raise ValueError(
            f"{place}: field {text_field!r} is empty; a document has at least one character, remove the line"
        )
    try:
        num_bytes = len(text.encode("utf-8"))
    except UnicodeEncodeError as problem:
        lone = text[problem.start]
        raise ValueError(
            f"{place}: field {text_field!r} holds the lone surrogate {lone!a} at character {problem.start}, "
            "which UTF-8 cannot hold; replace it with U+FFFD or remove the line"
        ) from None
    return Document(
        text=text,
        num_bytes=num_bytes,
        domain=_label(fields, "domain", place),
        licence=_label(fields, "licence", place),
        place=place,
    )


def _label(fields: dict[str, Any], name: str, place: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: field {name!r} must be a string if given, found a {type(value).__name__}")
    return value

"""Names of files that hold documents, and how the documents lie in each.

| suffix                             | one document is                                          |
|------------------------------------|----------------------------------------------------------|
| .jsonl, .ndjson, .jsonlines, .json | a line: a JSON object with its text in a field           |
| .txt                               | the whole file, or a line (`txt_documents="line"`)       |
| .parquet                           | a row, with its text in a column                         |

All but .parquet may be compressed: .gz, .gzip, .zst or .zstd after the suffix.
"""

from pathlib import Path
from typing import Literal

from fanal.errors import UserError
from tokenizer.documents.unreadable import how_to_read

LINE_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".json")
TEXT_SUFFIX, PARQUET_SUFFIX = ".txt", ".parquet"
GZIP_SUFFIXES, ZSTANDARD_SUFFIXES = (".gz", ".gzip"), (".zst", ".zstd")
COMPRESSIONS = (*GZIP_SUFFIXES, *ZSTANDARD_SUFFIXES)

Layout = Literal["json lines", "text lines", "text file", "parquet rows"]
TxtDocuments = Literal["file", "line"]


def known_layout(path: Path, txt_documents: TxtDocuments) -> Layout | None:
    """Return how a file's documents lie in it, by its name; None if the name is not one of a file of documents."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not suffixes:
        return None
    if suffixes[-1] == PARQUET_SUFFIX:
        return "parquet rows"
    suffix = suffixes[-2] if suffixes[-1] in COMPRESSIONS and len(suffixes) > 1 else suffixes[-1]
    if suffix in LINE_SUFFIXES:
        return "json lines"
    if suffix == TEXT_SUFFIX:
        return "text file" if txt_documents == "file" else "text lines"
    return None


def layout_of(path: Path, txt_documents: TxtDocuments) -> Layout:
    """Return how a file's documents lie in it, by its name. Raises: UserError if the name is unknown, saying what to do."""
    layout = known_layout(path, txt_documents)
    if layout is None:
        raise UserError(f"input file {path} {how_to_read(path)}")
    return layout


def is_compressed(path: Path) -> bool:
    """Whether a file can only be read from its start."""
    return path.suffix.lower() in (*COMPRESSIONS, PARQUET_SUFFIX)

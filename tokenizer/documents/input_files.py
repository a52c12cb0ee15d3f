"""Files that hold documents: the suffixes that are read, and what one document is in each.

| suffix                 | one document is                                          |
|------------------------|----------------------------------------------------------|
| .jsonl, .ndjson, .json | a line: a JSON object with its text in a field           |
| .txt                   | the whole file, or a line (`txt_documents="line"`)       |
| .parquet               | a row, with its text in a column                         |

All but .parquet may be compressed: .gz or .zst after the suffix.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from fanal.errors import UserError, error_type
from fanal.files import reading

LINE_SUFFIXES = (".jsonl", ".ndjson", ".json")
COMPRESSIONS = (".gz", ".zst")
UNKNOWN_COMPRESSIONS = (".bz2", ".xz", ".lz4", ".zip")
FOLDER_SUFFIXES = (".jsonl", ".ndjson", ".txt")
"""Suffixes read from a folder, beside .parquet; a .json there may be anything."""

Layout = Literal["json lines", "text lines", "text file", "parquet rows"]
TxtDocuments = Literal["file", "line"]


def find_inputs(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the files that the given files and folders stand for, in the order given; inside a folder in the order of
    their paths.

    Raises: UserError for none, a missing one, an unknown suffix, one given twice, or a folder without documents.
    """
    if not inputs:
        raise UserError("no input file was given; name at least one .jsonl file or a folder of them")
    found: list[Path] = []
    for path in map(Path, inputs):
        with reading(path):
            is_folder, is_file = path.is_dir(), path.is_file()
        if is_folder:
            inside = sorted(_files_below(path))
            if not inside:
                raise UserError(
                    f"input folder {path} holds no file named *.jsonl, *.ndjson or *.txt (with or without .gz or .zst) "
                    "and no *.parquet; name a folder of such files"
                )
            found += inside
        elif is_file:
            layout_of(path, "file")
            found.append(path)
        else:
            raise UserError(f"input file {path} does not exist or is not a file; name an existing .jsonl file")
    seen: dict[str, Path] = {}
    for path in found:
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"input file {path!a} has a name that is not UTF-8; the manifest could not name it, rename it"
            ) from None
        if (twin := seen.setdefault(os.path.realpath(path), path)) is not path:
            raise UserError(
                f"input file {path} is given twice (also as {twin}); its documents would be read twice, name it once"
            )
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of documents in a folder and in all folders below it, following links.

    Raises: UserError for a folder that may not be read or a file that would be left out for its compression alone.
    """

    def refuse(problem: OSError) -> None:
        raise error_type(problem)(
            f"input folder {problem.filename} cannot be read ({problem.strerror}); change its permissions"
        )

    seen: set[str] = set()
    for name, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(name))
        folders[:] = [inner for inner in folders if os.path.realpath(Path(name) / inner) not in seen]
        for path in (Path(name) / file for file in files):
            suffixes = [suffix.lower() for suffix in path.suffixes]
            if not suffixes:
                continue
            if suffixes[-1] in UNKNOWN_COMPRESSIONS and suffixes[-2:-1] and suffixes[-2] in FOLDER_SUFFIXES:
                raise UserError(
                    f"{path} has a compression that is not supported; compress it with gzip or zstd, or move it"
                )
            if suffixes[-1] == ".parquet" or _plain(suffixes) in FOLDER_SUFFIXES:
                yield path


def _plain(suffixes: Sequence[str]) -> str:
    """Return the suffix that says what is inside a compressed file."""
    return suffixes[-2] if suffixes[-1] in COMPRESSIONS and len(suffixes) > 1 else suffixes[-1]


def layout_of(path: Path, txt_documents: TxtDocuments) -> Layout:
    """Return how a file's documents lie in it, by its suffix. Raises: UserError if the suffix is unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes] or [""]
    suffix = _plain(suffixes)
    if suffix in LINE_SUFFIXES:
        return "json lines"
    if suffix == ".txt":
        return "text file" if txt_documents == "file" else "text lines"
    if suffixes[-1] == ".parquet":
        return "parquet rows"
    raise UserError(
        f"input file {path} has an unknown suffix; known are .jsonl, .ndjson, .json and .txt (with or without .gz or .zst) "
        "and .parquet: rename it, for example to NAME.jsonl"
    )


def is_compressed(path: Path) -> bool:
    """Whether a file can only be read from its start."""
    return path.suffix.lower() in (*COMPRESSIONS, ".parquet")

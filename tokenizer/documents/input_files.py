"""Inputs: the files that the files and folders which a user names stand for, each once, and what is left out of them.

Which names are read, file_names.py says; what a folder gives, folders.py.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.files import reading
from fanal.missing import what_is_there
from tokenizer.documents.file_names import known_layout, layout_of
from tokenizer.documents.folders import Candidate, LeftOut, files_of_folder, identity_of


@dataclass(frozen=True, kw_only=True)
class FoundInputs:
    """What the files and folders that a user names stand for."""

    paths: tuple[Path, ...] = ()
    """Files to read, in order."""
    left_out: tuple[LeftOut, ...] = ()
    """Everything else in the folders."""
    outside: tuple[Path, ...] = ()
    """Those of the paths that are links to files outside the folder."""


def find_inputs(inputs: Sequence[str | Path]) -> FoundInputs:
    """Return the files that the given files and folders stand for, in the order given; inside a folder in the order of
    their paths. A file that a folder holds under several names (links) counts once.

    Raises: UserError for none, a missing one, an unknown suffix, one given twice, a folder without documents, or a link to a
    folder elsewhere.
    """
    if not inputs:
        raise UserError("no input file was given; name at least one .jsonl file or a folder of them")
    given = [Path(path) for path in inputs]
    candidates: list[Candidate] = []
    left_out: list[LeftOut] = []
    outside: list[Path] = []
    for path in given:
        with reading(path):
            is_folder, is_file = path.is_dir(), path.is_file()
        if is_folder:
            folder = files_of_folder(path, given)
            if not folder.candidates:
                raise UserError(f"input folder {path} holds no file of documents{_found_instead(folder.left_out)}")
            candidates += folder.candidates
            left_out += folder.left_out
            outside += folder.outside
        elif is_file:
            layout_of(path, "file")
            candidates.append(Candidate(path=path, identity=identity_of(os.path.realpath(path)), named=True))
        else:
            raise UserError(f"input {path} {what_is_there(path, suitable=_is_input)}")
    paths = _each_once(candidates, left_out)
    read = set(paths)
    return FoundInputs(
        paths=tuple(paths), left_out=tuple(left_out), outside=tuple(path for path in outside if path in read)
    )


def _each_once(candidates: Sequence[Candidate], left_out: list[LeftOut]) -> list[Path]:
    """Return the candidates without further names of the same file, which join what is left out.

    Raises: UserError for a file that the user named twice, or whose name is no text.
    """
    first: dict[str, Candidate] = {}
    for one in sorted(candidates, key=lambda one: not one.named):  # a link is left out rather than what it leads to
        _check_name(one.path)
        twin = first.setdefault(one.identity, one)
        if twin is one:
            continue
        if one.named:
            raise UserError(
                f"input file {one.path} is given twice (also as {twin.path}); its documents would be read twice, name it once"
            )
        left_out.append(LeftOut(path=str(one.path), reason=f"the same file as {twin.path}"))
    return [one.path for one in candidates if first[one.identity] is one]


def _check_name(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"input file {path!a} has a name that is not UTF-8; the manifest could not name it, rename it"
        ) from None


def _found_instead(left_out: Sequence[LeftOut]) -> str:
    known = "*.jsonl, *.ndjson, *.json or *.txt (with or without .gz or .zst), or *.parquet"
    if not left_out:
        return f": it is empty; put files there that are named {known}"
    shown = "; ".join(f"{each.path}: {each.reason}" for each in left_out[:3])
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return f" named {known}; what it holds: {shown}{more}"


def _is_input(path: Path) -> bool:
    """Whether a path is a folder, or its name is that of a file of documents."""
    return path.is_dir() or known_layout(path, "file") is not None

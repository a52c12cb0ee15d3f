"""Open a tokenizer's folder, of either kind."""

import contextlib
import os
import shlex
from pathlib import Path
from typing import Any

from fanal.errors import UserError, user_path
from fanal.links import open_inside
from fanal.missing import what_is_there
from fanal.records import read_json
from tokenizer.vocabulary import imported, trained
from tokenizer.vocabulary.folder import FAST_NAME, INFO_NAME, MODEL_NAME
from tokenizer.vocabulary.folder import Tokenizer as Tokenizer


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Open a tokenizer folder.

    Raises: UserError naming the path if a file is missing or unreadable, is a link that leads out of the folder, or is not the
    one that tokenizer-info.json describes.
    """
    directory = Path(directory)
    with user_path(directory):
        is_there = directory.is_dir()
    if not is_there and directory.exists():
        raise UserError(f"tokenizer folder {directory} is not a folder; {trained.REMEDY}")
    if not is_there:  # a wrong path is likelier than a lost tokenizer
        raise UserError(f"tokenizer folder {directory} {what_is_there(directory, suitable=Path.is_dir)}")
    content = _info(directory)
    is_imported = isinstance(content, dict) and content.get("kind") == imported.KIND
    return (imported.load_imported if is_imported else trained.load_trained)(directory, content)


def _info(directory: Path) -> Any:
    """Return the content of a folder's tokenizer-info.json. Raises: UserError."""
    path = directory / INFO_NAME
    is_one = any((directory / name).is_file() for name in (FAST_NAME, MODEL_NAME))
    if is_one and not os.path.lexists(path) and not (directory / trained.SPEC_NAME).exists():
        words = ("fanal", "tokenizer", "import", str(directory), "--output", f"{directory}-imported")
        raise UserError(
            f"{path} does not exist: {directory} is no tokenizer folder of ours, but has the files of Hugging Face's; "
            f"`{shlex.join(words)}` makes one of it"
        )
    with contextlib.suppress(OSError):  # which read_json says
        os.close(open_inside(directory, INFO_NAME))
    return read_json(path, remedy=trained.REMEDY)

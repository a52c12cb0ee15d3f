"""Check the files of a Hugging Face folder beside config and weights before they are copied. No code of the folder is run."""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fanal.errors import UserError, error_type
from fanal.links import read_inside
from fanal.plain_files import MAX_TOKENIZER_BYTES
from fanal.shown import kind_of
from pretrain.convert.ours.import_record import GENERATION_CONFIG, KEPT_FILES, TOKENIZERS
from pretrain.convert.ours.token_ids import token_ids
from pretrain.convert.theirs.text import SENTENCEPIECE_MODEL, TOKENIZER_JSON, read_tokenizer_json
from tokenizer.vocabulary.pieces import contradiction, processor_of


class BadFileError(UserError):
    """Error: a file does not hold what its name promises; the message names it."""


def read_kept_files(folder: Path, *, vocab_size: int) -> dict[str, bytes]:
    """Return the kept files of the folder by their names, each checked the way its users will read it. What is copied is what was
    checked.

    Raises: BadFileError, SpecialTokenIdError: UserErrors that name the file; as ``open_inside``.
    """
    found = {name: _read(folder, name) for name in KEPT_FILES if os.path.lexists(folder / name)}
    for name, raw in found.items():
        path = folder / name
        if name == SENTENCEPIECE_MODEL:
            _check_sentencepiece(path, raw)
        elif path.suffix == ".json":
            content = _object_in(path, raw)
            if name == GENERATION_CONFIG:
                token_ids(content, path, vocab_size=vocab_size)
            elif name == TOKENIZER_JSON:
                _check_tokenizer_json(path, content)
        else:
            _text_in(path, raw)
    if (wrong := contradiction(folder, vocab_size=vocab_size)) is not None:
        raise BadFileError(f"{wrong}; copy the model's own there, or remove what is not")
    return found


def has_tokenizer(names: Collection[str]) -> bool:
    """Return whether one of these files is a tokenizer by itself, and does not merely describe one."""
    return not TOKENIZERS.isdisjoint(names)


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise BadFileError(f"{path} must be a file, and is not one; copy it again, or remove it")
    try:
        return read_inside(folder, name, max_bytes=MAX_TOKENIZER_BYTES)
    except OSError as error:
        raise error_type(error, BadFileError)(f"{path} cannot be read ({error.strerror}); copy it again") from None


def _text_in(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeError as error:
        raise BadFileError(f"{path} is not text in UTF-8 ({error}); copy it again, or remove it") from None


def _object_in(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(_text_in(path, raw))
    except BadFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{path} is not JSON ({error}); copy it again, or remove it") from None
    if not isinstance(content, dict):
        raise BadFileError(f"{path} must hold an object; it holds {kind_of(content)}; copy it again, or remove it")
    return content


def _check_tokenizer_json(path: Path, content: dict[str, Any]) -> None:
    if not isinstance(content.get("model"), dict):
        raise BadFileError(f"{path} must hold an object named model, and does not; copy it again, or remove it")
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        return  # an import needs no library of transformers; an export and `generate` read the file with them
    read_tokenizer_json(path)


def _check_sentencepiece(path: Path, raw: bytes) -> None:
    try:
        processor_of(raw)
    except RuntimeError as error:
        raise BadFileError(f"{path} is not a SentencePiece model ({error}); copy it again, or remove it") from None

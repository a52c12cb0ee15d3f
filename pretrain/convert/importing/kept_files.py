"""Check the files of a Hugging Face folder beside config and weights before they are copied. No code of the folder is run."""

import json
import os
from pathlib import Path
from typing import Any

import sentencepiece

from fanal.errors import UserError, error_type
from fanal.shown import kind_of
from pretrain.convert.ours.import_record import KEPT_FILES, TOKENIZERS
from pretrain.convert.ours.token_ids import token_ids
from pretrain.convert.theirs.text import SENTENCEPIECE_MODEL, TOKENIZER_JSON, read_tokenizer_json
from tokenizer.vocabulary.pieces import contradiction

GENERATION_CONFIG = "generation_config.json"


class BadFileError(UserError):
    """Error: a file does not hold what its name promises; the message names it."""


def check_kept_files(folder: Path, *, vocab_size: int) -> list[str]:
    """Return the names of the kept files in the folder, each read the way its users will read it.

    Raises: BadFileError, SpecialTokenIdError: UserErrors that name the file.
    """
    found = [name for name in KEPT_FILES if os.path.lexists(folder / name)]
    for name in found:
        path = folder / name
        if not path.is_file():
            raise BadFileError(f"{path} must be a file, and is not one; copy it again, or remove it")
        if name == SENTENCEPIECE_MODEL:
            _check_sentencepiece(path)
        elif path.suffix == ".json":
            content = _read_object(path)
            if name == GENERATION_CONFIG:
                token_ids(content, path, vocab_size=vocab_size)
            elif name == TOKENIZER_JSON:
                _check_tokenizer_json(path, content)
        else:
            _read_text(path)
    if (wrong := contradiction(folder, vocab_size=vocab_size)) is not None:
        raise BadFileError(f"{wrong}; copy the model's own there, or remove what is not")
    return found


def has_tokenizer(names: list[str]) -> bool:
    """Return whether one of these files is a tokenizer by itself, and does not merely describe one."""
    return not TOKENIZERS.isdisjoint(names)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise error_type(error, BadFileError)(f"{path} cannot be read ({error.strerror}); copy it again") from None
    except UnicodeError as error:
        raise BadFileError(f"{path} is not text in UTF-8 ({error}); copy it again, or remove it") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
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


def _check_sentencepiece(path: Path) -> None:
    try:
        if path.stat().st_size:
            sentencepiece.SentencePieceProcessor(model_file=str(path))
            return
        problem: Exception = RuntimeError("it is empty")
    except (OSError, RuntimeError) as error:
        problem = error
    raise error_type(problem, BadFileError)(
        f"{path} is not a SentencePiece model ({problem}); copy it again, or remove it"
    ) from None

"""The pieces of a tokenizer by their ids, from the file that describes it: enough to tell whether two files are one tokenizer.

A tokenizer has several forms (SentencePiece's model, Hugging Face's JSON), so hashes of files say little. The same ids for the same
pieces is what a model has learned.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from fanal.files import reading
from fanal.links import read_inside
from fanal.plain_files import MAX_TOKENIZER_BYTES

MODEL_NAME, JSON_NAME = "tokenizer.model", "tokenizer.json"
RENAMED_SHARE = 0.05
"""Share of the common ids that may have other pieces in two forms of one tokenizer: reserved pieces get names of their own."""
NO_TOKENIZER = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""Errors of a file that is something else."""
Pieces = Mapping[int, str]


def pieces_in(folder: Path) -> dict[str, Pieces]:
    """Return the pieces that each file of a folder describes, by the file's name; nothing of a file that is no tokenizer of a form
    known here, which whoever uses it judges.

    Raises: PassingError, UserError if a file cannot be read; as ``open_inside``.
    """
    readers = {JSON_NAME: _of_json, MODEL_NAME: _of_sentencepiece}
    found = {}
    for name, read in readers.items():
        path = folder / name
        if path.is_file():
            with reading(path):
                content = read_inside(folder, name, max_bytes=MAX_TOKENIZER_BYTES)
            with contextlib.suppress(*NO_TOKENIZER):
                found[name] = read(content)
    return found


def pieces_of(folder: Path) -> Pieces | None:
    """Return the pieces of the tokenizer in a folder, of the form that defines its ids; None if it has none of a form known here.

    Raises: as ``pieces_in``.
    """
    found = pieces_in(folder)
    return found.get(MODEL_NAME) or next(iter(found.values()), None)


def processor_of(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Open the content of a tokenizer.model. Raises: RuntimeError if it is none, which the library does not say of nothing."""
    if not model:
        raise RuntimeError("it is empty")
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def difference(one: Pieces, other: Pieces) -> str | None:
    """Return how two tokenizers differ, in words; None if they are forms of the same one."""
    common = one.keys() & other.keys()
    differing = sorted(token for token in common if one[token] != other[token])
    if not common or len(differing) <= RENAMED_SHARE * len(common):
        return None
    first = differing[0]
    return f"{len(differing):,} of {len(common):,} ids stand for other pieces, first {first}: {one[first]!r} and {other[first]!r}"


def contradiction(folder: Path, *, vocab_size: int) -> str | None:
    """Return why the tokenizer of a folder cannot be that of a model with ``vocab_size`` rows; None if nothing speaks against it.

    Raises: as ``pieces_in``.
    """
    found = pieces_in(folder)
    for name, pieces in found.items():
        beyond = max(pieces, default=0)
        if beyond >= vocab_size:
            return (
                f"{folder / name} has ids up to {beyond}, and the model has {vocab_size:,} (0 to {vocab_size - 1}): it belongs to "
                "another model"
            )
    if len(found) == 2 and (differs := difference(*found.values())) is not None:
        return f"{folder / JSON_NAME} and {MODEL_NAME} beside it are two tokenizers, and one of them is not the model's: {differs}"
    return None


def _of_json(content: bytes) -> Pieces:
    """The vocabulary of the model; tokens that were added to it later are left out, as some have no row."""
    vocabulary: Any = json.loads(content)["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return {int(token): str(piece) for piece, token in vocabulary.items()}
    return {token: str(piece) for token, (piece, *_) in enumerate(vocabulary)}


def _of_sentencepiece(content: bytes) -> Pieces:
    processor = processor_of(content)
    return dict(enumerate(processor.IdToPiece(list(range(processor.GetPieceSize())))))

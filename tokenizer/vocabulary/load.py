"""A trained tokenizer's folder, opened and checked.

tokenizer.model       the SentencePiece model
tokenizer.json        the same for Hugging Face's `tokenizers` (see fast_json.py)
spec.yaml             the spec it was trained from, every default written out
tokenizer-info.json   what it is and what it was trained on (TokenizerInfo); holds the hashes of the other three, and its own
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from fanal.errors import UserError, error_type, user_path
from fanal.files import InputFile
from fanal.links import open_inside, read_inside
from fanal.missing import what_is_there
from fanal.plain_files import MAX_TOKENIZER_BYTES
from fanal.records import own_hash, read_json, record_in
from tokenizer.vocabulary.sampling import LanguageSample
from tokenizer.vocabulary.spec import TokenizerSpec, load_spec

MODEL_NAME, INFO_NAME, SPEC_NAME, FAST_NAME = "tokenizer.model", "tokenizer-info.json", "spec.yaml", "tokenizer.json"
FORMAT_VERSION = 2
OWN_HASH = "info_sha256"


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """Content of tokenizer-info.json."""

    format_version: int
    """Version of the format: 2."""
    vocab_size: int
    """Number of ids."""
    model_sha256: str
    """SHA-256 of tokenizer.model; every shard names its tokenizer by it."""
    fast_json_sha256: str
    """SHA-256 of tokenizer.json."""
    spec_sha256: str
    """SHA-256 of spec.yaml."""
    bos_id: int
    eos_id: int
    unk_id: int
    pad_id: int
    text_field: str
    """Field of the input lines that was read."""
    num_documents: int
    """Number of documents trained on."""
    num_text_bytes: int
    """Size of the text trained on, as the spec prepares it, in UTF-8 bytes."""
    languages: tuple[LanguageSample, ...]
    """Text that each language gave, if the spec asked for a choice; else empty."""
    input_files: tuple[InputFile, ...]
    sentencepiece_version: str
    proved_engine: str | None
    """The fast engine, with its version, that gave SentencePiece's ids for the whole vocabulary when this was trained."""
    info_sha256: str | None = None
    """SHA-256 of everything else in this file (``own_hash``); None in that of an earlier version."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A trained tokenizer: text to ids and back."""

    directory: Path
    processor: sentencepiece.SentencePieceProcessor
    """SentencePiece model; it takes text that the spec has prepared."""
    spec: TokenizerSpec
    vocab_size: int
    """Number of ids; every id is in [0, vocab_size)."""
    model_sha256: str
    bos_id: int
    eos_id: int
    unk_id: int
    pad_id: int
    proved_engine: str | None
    """Fast engine that was proved when the tokenizer was trained (see TokenizerInfo)."""
    control_ids: tuple[int, ...]
    """Ids that no text produces: the four special ones (unk aside) and the reserved tokens."""
    trained_on: tuple[LanguageSample, ...]
    """Text that each language gave, if the spec asked for a choice; else empty."""

    def encode_batch(self, texts: list[str], *, num_threads: int) -> list[np.ndarray]:
        """Return the ids of each text, without BOS and EOS: int32 [number of tokens] each, whatever num_threads is.

        A text of which preparation leaves nothing gives no ids.
        """
        prepared = [self.spec.prepare(text) for text in texts]
        return self.processor.Encode(prepared, out_type="numpy", num_threads=num_threads)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids; control tokens are left out."""
        return self.processor.Decode(ids)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Open a tokenizer folder.

    Raises: UserError naming the path if a file is missing or unreadable, is a link that leads out of the folder, or is not the
    one that tokenizer-info.json describes.
    """
    directory = Path(directory)
    remedy = "train it again with `fanal tokenizer train`, or copy the whole folder again"
    with user_path(directory):
        is_there = directory.is_dir()
    if not is_there and directory.exists():
        raise UserError(f"tokenizer folder {directory} is not a folder; {remedy}")
    if not is_there:  # a wrong path is likelier than a lost tokenizer
        raise UserError(f"tokenizer folder {directory} {what_is_there(directory, suitable=Path.is_dir)}")
    with contextlib.suppress(OSError):  # which read_json says
        os.close(open_inside(directory, INFO_NAME))
    content = read_json(directory / INFO_NAME, remedy=remedy)
    info = record_in(TokenizerInfo, content, directory / INFO_NAME, remedy=remedy)
    if info.format_version != FORMAT_VERSION:
        raise UserError(
            f"{directory / INFO_NAME} has format_version {info.format_version}, but this program reads {FORMAT_VERSION}; "
            f"{remedy}"
        )
    path = directory / MODEL_NAME
    model = _read_described(path, info.model_sha256, remedy)
    _read_described(directory / FAST_NAME, info.fast_json_sha256, remedy)
    _read_described(directory / SPEC_NAME, info.spec_sha256, remedy)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = {
        "vocab_size": processor.GetPieceSize(),
        "bos_id": processor.bos_id(),
        "eos_id": processor.eos_id(),
        "unk_id": processor.unk_id(),
        "pad_id": processor.pad_id(),
    }
    for name, value in ids.items():
        if value != getattr(info, name):
            raise UserError(f"{path} has {name} {value}, but {INFO_NAME} says {getattr(info, name)}; {remedy}")
    if info.info_sha256 is not None and (found := own_hash(content, OWN_HASH)) != info.info_sha256:
        raise UserError(
            f"{directory / INFO_NAME} has content with sha256 {found}, but says {info.info_sha256}: it was altered; {remedy}"
        )
    return Tokenizer(
        directory=directory,
        processor=processor,
        spec=load_spec(directory / SPEC_NAME),
        model_sha256=info.model_sha256,
        proved_engine=info.proved_engine,
        control_ids=tuple(np.flatnonzero(processor.IsControl(list(range(ids["vocab_size"])))).tolist()),
        trained_on=info.languages,
        **ids,
    )


def _read_described(path: Path, sha256: str, remedy: str) -> bytes:
    try:
        content = read_inside(path.parent, path.name, max_bytes=MAX_TOKENIZER_BYTES)
    except OSError as problem:
        raise error_type(problem)(f"{path} cannot be read ({problem.strerror}); {remedy}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(f"{path} has sha256 {found}, but {INFO_NAME} says {sha256}: it was altered; {remedy}")
    return content

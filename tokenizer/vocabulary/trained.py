"""The folder of a tokenizer that was trained here, opened and checked.

tokenizer.model       the SentencePiece model
tokenizer.json        the same for Hugging Face's `tokenizers` (see fast_json.py)
spec.yaml             the spec it was trained from, every default written out
tokenizer-info.json   what it is and what it was trained on (TokenizerInfo); holds the hashes of the other three, and its own
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import sentencepiece

from fanal.errors import UserError
from fanal.files import InputFile
from fanal.plain_files import MAX_TOKENIZER_BYTES, read_plain
from fanal.records import own_hash, record_in
from tokenizer.vocabulary.fast_json import SPACE_PIECE, UNKNOWN_TEXT
from tokenizer.vocabulary.folder import (
    FAST_NAME,
    INFO_NAME,
    MODEL_NAME,
    OWN_HASH,
    Tokenizer,
    read_described,
)
from tokenizer.vocabulary.sampling import LanguageSample
from tokenizer.vocabulary.spec import UNK_ID, TokenizerSpec, load_spec
from tokenizer.vocabulary.token_bytes import TokenBytes, byte_of, plain_token_bytes

SPEC_NAME = "spec.yaml"
FORMAT_VERSION = 2
REMEDY = "train it again with `fanal tokenizer train`, or copy the whole folder again"


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
class TrainedTokenizer(Tokenizer):
    """A tokenizer that was trained here; SentencePiece defines its ids."""

    processor: sentencepiece.SentencePieceProcessor
    """SentencePiece model; it takes text that the spec has prepared."""
    spec: TokenizerSpec

    def encode_batch(self, texts: list[str], *, num_threads: int) -> list[np.ndarray]:
        # A text of which preparation leaves nothing gives no ids.
        prepared = [self.spec.prepare(text) for text in texts]
        return self.processor.Encode(prepared, out_type="numpy", num_threads=num_threads)

    def decode(self, ids: list[int]) -> str:
        return self.processor.Decode(ids)

    def piece(self, token: int) -> str:
        return self.processor.IdToPiece(token)

    def byte_ids(self) -> frozenset[int]:
        return frozenset(token for token in range(self.vocab_size) if self.processor.IsByte(token))

    def token_bytes(self) -> TokenBytes:
        ids = list(range(self.vocab_size))
        pieces = [piece.replace(SPACE_PIECE, " ").encode() for piece in self.processor.IdToPiece(ids)]
        for token in self.control_ids:
            pieces[token] = b""
        for token in self.byte_ids():
            pieces[token] = byte_of(self.piece(token))
        pieces[UNK_ID] = UNKNOWN_TEXT.encode()
        return plain_token_bytes(pieces)

    def prepare(self, text: str) -> str:
        return self.spec.prepare(text)

    def token_texts(self) -> list[str]:
        return [piece.replace(SPACE_PIECE, " ") for piece in self._fast_content()["model"]["vocab"]]

    def fast_json(self) -> str:
        return _for_prepared_text(self._fast_content())

    def for_fast(self, text: str) -> str:
        text = self.spec.prepare(text)
        # To SentencePiece a space and the block element that it writes for one are the same.
        return text.replace(SPACE_PIECE, " ") if SPACE_PIECE in text else text

    def _fast_content(self) -> dict[str, Any]:
        return orjson.loads(read_plain(self.directory / FAST_NAME, max_bytes=MAX_TOKENIZER_BYTES))


def load_trained(directory: Path, content: Any) -> TrainedTokenizer:
    """Open the folder of a trained tokenizer. Args: content: that of its tokenizer-info.json. Raises: as ``load_tokenizer``."""
    info = record_in(TokenizerInfo, content, directory / INFO_NAME, remedy=REMEDY)
    if info.format_version != FORMAT_VERSION:
        raise UserError(
            f"{directory / INFO_NAME} has format_version {info.format_version}, but this program reads {FORMAT_VERSION}; "
            f"{REMEDY}"
        )
    path = directory / MODEL_NAME
    model = read_described(path, info.model_sha256, REMEDY)
    read_described(directory / FAST_NAME, info.fast_json_sha256, REMEDY)
    read_described(directory / SPEC_NAME, info.spec_sha256, REMEDY)
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
            raise UserError(f"{path} has {name} {value}, but {INFO_NAME} says {getattr(info, name)}; {REMEDY}")
    if info.info_sha256 is not None and (found := own_hash(content, OWN_HASH)) != info.info_sha256:
        raise UserError(
            f"{directory / INFO_NAME} has content with sha256 {found}, but says {info.info_sha256}: it was altered; {REMEDY}"
        )
    return TrainedTokenizer(
        directory=directory,
        processor=processor,
        spec=load_spec(directory / SPEC_NAME),
        model_sha256=info.model_sha256,
        proved_engine=info.proved_engine,
        control_ids=tuple(np.flatnonzero(processor.IsControl(list(range(ids["vocab_size"])))).tolist()),
        trained_on=info.languages,
        vocab_size=ids["vocab_size"],
        bos_id=ids["bos_id"],
        eos_id=ids["eos_id"],
        unk_id=ids["unk_id"],
        pad_id=ids["pad_id"],
    )


def _for_prepared_text(content: dict[str, Any]) -> str:
    """Return tokenizer.json for text that `TokenizerSpec.prepare` has had, in which every U+2581 is a space already.

    Matching user-defined symbols in text that gigatoken has normalized is 70 times slower, so they are matched before.
    """
    replace_spaces = content["normalizer"]["normalizers"][-1]
    symbols = [
        token | {"normalized": False, "content": token["content"].replace(SPACE_PIECE, " ")}
        for token in content["added_tokens"]
    ]
    return orjson.dumps(content | {"normalizer": replace_spaces, "added_tokens": symbols}).decode()

"""The folder of a tokenizer that was imported from a Hugging Face folder.

tokenizer-info.json   what it is, the ids that start and end documents, and the hash of every other file (ImportedInfo)
tokenizer.json, tokenizer.model, tokenizer_config.json, chat_template.jinja, ...   byte for byte as they were (KEPT_FILES)

A run that reads shards needs none of the libraries: they are opened when text is first encoded.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from fanal.errors import UserError
from fanal.records import has_own_hash, own_hash, record_in
from tokenizer.vocabulary.folder import (
    FAST_NAME,
    INFO_NAME,
    MODEL_NAME,
    OWN_HASH,
    TITLES,
    Library,
    Tokenizer,
    read_described,
)
from tokenizer.vocabulary.oracles import Oracle
from tokenizer.vocabulary.special_tokens import TOKENIZER_CONFIG, Stated, open_oracle
from tokenizer.vocabulary.token_bytes import TokenBytes

KIND = "imported"
FORMAT_VERSION = 1
KEPT_FILES = (
    FAST_NAME,
    MODEL_NAME,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files of a Hugging Face folder that describe its tokenizer."""
REMEDY = "import it again with `fanal tokenizer import`, or copy the whole folder again"


@dataclass(frozen=True, kw_only=True)
class KeptFile:
    """A file as it was in the folder that was imported."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ImportedInfo:
    """Content of tokenizer-info.json."""

    format_version: int
    """Version of the format of this kind: 1."""
    kind: str
    """``imported``; the info of a trained tokenizer has no such key."""
    name: str
    """Name of the folder, without the path to it."""
    vocab_size: int
    """Number of ids: the highest one, of added tokens too, and one more."""
    ids_sha256: str
    """Hash of all that decides which ids a document gets; every shard names its tokenizer by it."""
    bos_id: int | None
    eos_id: int
    unk_id: int | None
    pad_id: int | None
    adds_bos: bool
    """Whether its own files put a BOS in front of a text."""
    control_ids: tuple[int, ...]
    """Ids that no text produces."""
    oracle: str
    """The library that defines its ids."""
    oracle_version: str
    """Version of that library when the folder was imported."""
    proved_engine: str | None
    """The fast engine, with its version, that gave the oracle's ids for the whole vocabulary then."""
    files: tuple[KeptFile, ...]
    info_sha256: str | None = None
    """SHA-256 of everything else in this file (``own_hash``)."""


@dataclass(frozen=True, kw_only=True)
class ImportedTokenizer(Tokenizer):
    """A tokenizer from elsewhere; `tokenizers` defines its ids, or SentencePiece where there is no tokenizer.json."""

    files: dict[str, bytes]
    """The original files by their names."""

    @cached_property
    def _oracle(self) -> Oracle:
        return open_oracle(Stated.of(self.directory, self.files))

    def encode_batch(self, texts: list[str], *, num_threads: int) -> list[np.ndarray]:
        return self._oracle.encode_batch(texts, num_threads=num_threads)

    def decode(self, ids: list[int]) -> str:
        return self._oracle.decode(ids)

    def piece(self, token: int) -> str:
        return self._oracle.piece(token)

    def byte_ids(self) -> frozenset[int]:
        return self._oracle.byte_ids()

    def token_bytes(self) -> TokenBytes:
        return self._oracle.token_bytes()

    def prepare(self, text: str) -> str:
        return self._oracle.normalized(text)

    def token_texts(self) -> list[str]:
        return self._oracle.token_texts()

    def fast_json(self) -> str | None:
        return self._oracle.fast_json()

    def for_fast(self, text: str) -> str:
        return text


def load_imported(directory: Path, content: Any) -> ImportedTokenizer:
    """Open the folder of an imported tokenizer. Args: content: that of its tokenizer-info.json. Raises: as ``load_tokenizer``."""
    path = directory / INFO_NAME
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {content.get('format_version')!r} of the kind {KIND!r}, but this program reads "
            f"{FORMAT_VERSION}; {REMEDY}"
        )
    info = record_in(ImportedInfo, content, path, remedy=REMEDY)
    if info.info_sha256 is None or not has_own_hash(content, OWN_HASH):
        raise UserError(
            f"{path} has content with sha256 {own_hash(content, OWN_HASH)}, but says {info.info_sha256}: it was altered; {REMEDY}"
        )
    if unknown := [file.path for file in info.files if file.path not in KEPT_FILES]:
        raise UserError(f"{path} names {unknown[0]!r}, expected {', '.join(KEPT_FILES)}; {REMEDY}")
    if info.oracle not in TITLES:
        raise UserError(f"{path} names the library {info.oracle!r}, expected {' or '.join(TITLES)}; {REMEDY}")
    return ImportedTokenizer(
        directory=directory,
        files={file.path: read_described(directory / file.path, file.sha256, REMEDY) for file in info.files},
        vocab_size=info.vocab_size,
        model_sha256=info.ids_sha256,
        bos_id=info.bos_id,
        eos_id=info.eos_id,
        unk_id=info.unk_id,
        pad_id=info.pad_id,
        adds_bos=info.adds_bos,
        proved_engine=info.proved_engine,
        control_ids=info.control_ids,
        oracle=cast(Library, info.oracle),
    )

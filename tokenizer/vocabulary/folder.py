"""A tokenizer's folder, of either kind: trained here (trained.py), or imported from a Hugging Face folder (imported.py).

Whoever encodes, checks, trains or exports asks a ``Tokenizer`` and need not know its kind. Both kinds keep their files beside
tokenizer-info.json, which holds the hash of each and its own.
"""

import abc
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fanal.errors import UserError, error_type
from fanal.links import read_inside
from fanal.plain_files import MAX_TOKENIZER_BYTES
from tokenizer.vocabulary.sampling import LanguageSample
from tokenizer.vocabulary.token_bytes import TokenBytes

MODEL_NAME, FAST_NAME, INFO_NAME = "tokenizer.model", "tokenizer.json", "tokenizer-info.json"
OWN_HASH = "info_sha256"
Library = Literal["sentencepiece", "tokenizers"]
TITLES: dict[Library, str] = {"sentencepiece": "SentencePiece", "tokenizers": "tokenizers"}
"""Names of the libraries in messages."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer(abc.ABC):
    """A tokenizer: text to ids and back."""

    directory: Path
    vocab_size: int
    """Number of ids; every id is in [0, vocab_size)."""
    model_sha256: str
    """Hash by which shards name it: of all that decides which ids a text gets."""
    bos_id: int | None
    """Id that documents may start with; None for a tokenizer without one."""
    eos_id: int
    """Id that ends documents."""
    unk_id: int | None
    pad_id: int | None
    proved_engine: str | None
    """The fast engine, with its version, that gave the oracle's ids for the whole vocabulary when the folder was made."""
    control_ids: tuple[int, ...]
    """Ids that no text produces."""
    trained_on: tuple[LanguageSample, ...] = ()
    """Text that each language gave, if a spec asked for a choice; else empty."""
    adds_bos: bool = True
    """Whether a text gets BOS in front where nothing else is said."""
    oracle: Library = "sentencepiece"
    """The library that defines its ids."""

    @property
    def ignored_id(self) -> int | None:
        """The id whose prediction a model does not learn: padding. None where there is none, or where the same id also starts or
        ends documents, as in many folders from elsewhere: it is learned."""
        shared = self.pad_id in (self.eos_id, self.bos_id) or self.pad_id not in self.control_ids
        return None if shared else self.pad_id

    @abc.abstractmethod
    def encode_batch(self, texts: list[str], *, num_threads: int) -> list[np.ndarray]:
        """Return the oracle's ids of each text, without BOS and EOS: integers [number of tokens] each, whatever num_threads is.

        A name of a control token in a text is text.
        """

    @abc.abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Return the text of ids; control tokens are left out."""

    @abc.abstractmethod
    def piece(self, token: int) -> str:
        """Return a token as the vocabulary spells it."""

    @abc.abstractmethod
    def byte_ids(self) -> frozenset[int]:
        """Return the ids that stand for one byte of a character without a token of its own."""

    @abc.abstractmethod
    def token_bytes(self) -> TokenBytes:
        """Return the bytes that each token adds to a document's text, as ``decode`` gives it."""

    @abc.abstractmethod
    def prepare(self, text: str) -> str:
        """Return the text as decoding can give it back: normalized."""

    @abc.abstractmethod
    def token_texts(self) -> list[str]:
        """Return the text of every token, with which two libraries are compared on the whole vocabulary."""

    @abc.abstractmethod
    def fast_json(self) -> str | None:
        """Return a tokenizer.json that gives documents' text the right ids in the fast engine; None if there is no such form."""

    @abc.abstractmethod
    def for_fast(self, text: str) -> str:
        """Return a text as it is given to the fast engine."""


def read_described(path: Path, sha256: str, remedy: str) -> bytes:
    """Read a file of a tokenizer's folder. Raises: UserError if it is missing, leads out of the folder or has another hash."""
    try:
        content = read_inside(path.parent, path.name, max_bytes=MAX_TOKENIZER_BYTES)
    except OSError as problem:
        raise error_type(problem)(f"{path} cannot be read ({problem.strerror}); {remedy}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(f"{path} has sha256 {found}, but {INFO_NAME} says {sha256}: it was altered; {remedy}")
    return content

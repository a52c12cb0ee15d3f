"""The libraries that define an imported tokenizer's ids: Hugging Face's `tokenizers`, or SentencePiece without a tokenizer.json.

Documents' text never becomes a control token, whatever it holds: names of special tokens are text (`encode_special_tokens`), and
where the model itself could still make one of such a name, its piece is renamed to one that no text holds. Added tokens that are
not special, such as runs of spaces, match in text as their makers want it.
"""

import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece

from fanal.errors import UserError
from tokenizer.vocabulary.byte_level import BYTE_OF, is_byte_level, spelled_bytes, steps_of, texts_of_pieces
from tokenizer.vocabulary.document_json import for_fast_engine, is_reachable, ordinary_pieces, without_names
from tokenizer.vocabulary.folder import Library
from tokenizer.vocabulary.pieces import processor_of
from tokenizer.vocabulary.token_bytes import TokenBytes, byte_of, plain_token_bytes, token_bytes_by_decoding

EXTRA = "pip install 'fanal[hf]'"


class Oracle(Protocol):
    """A library with a tokenizer opened in it."""

    library: Library
    vocab_size: int

    def encode_batch(self, texts: Sequence[str], *, num_threads: int) -> list[np.ndarray]:
        """Return the ids of each text, without BOS and EOS; no control token is among them."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids; control tokens are left out."""
        ...

    def piece(self, token: int) -> str:
        """Return a token as the vocabulary spells it."""
        ...

    def id_of(self, piece: str) -> int | None:
        """Return the id of a token by its spelling; None if there is no such token."""
        ...

    def control(self) -> dict[int, str]:
        """Return the control tokens, by their ids."""
        ...

    def byte_ids(self) -> frozenset[int]:
        """Return the ids that stand for one byte each."""
        ...

    def token_bytes(self) -> TokenBytes:
        """Return the bytes that each token adds to a document's text."""
        ...

    def normalized(self, text: str) -> str:
        """Return a text in the Unicode form that the tokenizer brings it to."""
        ...

    def token_texts(self) -> list[str]:
        """Return the text of every token."""
        ...

    def fast_json(self) -> str | None:
        """Return a tokenizer.json without control tokens, for the fast engine; None if there is none."""
        ...


class TokenizersOracle:
    """A tokenizer.json in the library that it is made for.

    Args: path, content: the file, parsed; added: added tokens of tokenizer_config.json by their ids; special: names of tokens that
        other files call special.
    Raises: UserError if the library is missing or does not read it.
    """

    library: Library = "tokenizers"

    def __init__(
        self, path: Path, content: dict[str, Any], added: Mapping[int, Mapping[str, Any]], special: Iterable[str]
    ) -> None:
        self._path, self._library = path, _tokenizers(path)
        self._model, self._is_byte_level = content["model"], is_byte_level(content)
        self._whole = self._opened(content)
        known = {token: repr(each) for token, each in self._whole.get_added_tokens_decoder().items()}
        for token, fields in sorted(added.items()):  # as transformers does
            each = self._library.AddedToken(**fields)
            if known.get(token) == repr(each):
                continue
            self._whole.add_tokens([each])
            if self._whole.token_to_id(each.content) != token:
                raise UserError(
                    f"added_tokens_decoder of {path.with_name('tokenizer_config.json')} gives {each.content!r} the id {token}, and "
                    f"by {path} it has {self._whole.token_to_id(each.content)}; copy both files of one tokenizer"
                )
        ordinary = ordinary_pieces(self._model, special := list(special))
        self._whole.add_special_tokens(
            [name for name in special if name not in ordinary and self._whole.token_to_id(name) is not None]
        )
        self._whole.encode_special_tokens = True
        self.vocab_size = max(self._whole.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._plain = self._whole
        if is_reachable(content["model"], self._names()):
            self._plain = self._opened(without_names(json.loads(self._whole.to_str()), self._names()))
            self._plain.encode_special_tokens = True

    def _opened(self, content: dict[str, Any]) -> Any:
        try:
            opened = self._library.Tokenizer.from_str(json.dumps(content))
        except Exception as problem:  # the library raises nothing narrower
            raise UserError(
                f"{self._path} is not a tokenizer that the library tokenizers can read ({problem}); copy it again"
            ) from None
        opened.no_truncation()
        opened.no_padding()
        return opened

    def encode_batch(self, texts: Sequence[str], *, num_threads: int) -> list[np.ndarray]:
        try:
            found = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as problem:  # of a model that has no token for a character, and none for the unknown
            raise UserError(
                f"{self._path} gives some text no ids ({problem}); one with bytes, or with an unk_id, works"
            ) from None
        return [np.array(each.ids, dtype=np.int64) for each in found]

    def decode(self, ids: list[int]) -> str:
        return self._whole.decode(ids, skip_special_tokens=True)

    def piece(self, token: int) -> str:
        return self._whole.id_to_token(token) or ""

    def id_of(self, piece: str) -> int | None:
        return self._whole.token_to_id(piece)

    def control(self) -> dict[int, str]:
        special = {
            token: each.content for token, each in self._whole.get_added_tokens_decoder().items() if each.special
        }
        return {token: name for token, name in special.items() if token not in self._unknown}

    def _names(self) -> set[str]:
        """Return the spellings that must mean nothing in a text: of control tokens, and of the unknown one."""
        return {*self.control().values(), *(self.piece(token) for token in self._unknown)}

    @cached_property
    def _unknown(self) -> frozenset[int]:
        """The id that text gets where the vocabulary ends, if that happens: it is special, and text produces it.

        Where each byte has a token it never happens, and the token named for it may be the one that ends documents, as in SmolLM's.
        """
        pieces = self._whole.get_vocab(with_added_tokens=False)
        if self._is_byte_level and BYTE_OF.keys() <= pieces.keys():
            return frozenset()
        if self._model.get("byte_fallback") and len(self.byte_ids()) == 256:
            return frozenset()
        name = self._model.get("unk_token")
        found = self._whole.token_to_id(name) if name else self._model.get("unk_id")  # of BPE, or of Unigram
        return frozenset() if found is None else frozenset({found})

    def bos_in_front(self) -> int | None:
        """Return the first id that the file puts in front of a text; None if it puts none."""
        return next(iter(self._whole.encode("", add_special_tokens=True).ids), None)

    def byte_ids(self) -> frozenset[int]:
        found = (self._whole.token_to_id(f"<0x{value:02X}>") for value in range(256))
        return frozenset(token for token in found if token is not None)

    def token_bytes(self) -> TokenBytes:
        pieces = [self.piece(token) for token in range(self.vocab_size)]
        steps = [step.get("type") for step in steps_of(json.loads(self._whole.to_str()).get("decoder"))]
        if "ByteLevel" in steps:
            added = self._whole.get_added_tokens_decoder().items()
            silent = {token for token, each in added if each.special}
            return plain_token_bytes(
                [b"" if token in silent else spelled_bytes(piece) for token, piece in enumerate(pieces)]
            )
        known = {token: byte_of(pieces[token]) for token in self.byte_ids()} if "ByteFallback" in steps else {}
        return token_bytes_by_decoding(self.decode, known=known, num_ids=self.vocab_size)

    def normalized(self, text: str) -> str:
        normalizer = self._whole.normalizer
        forms = ("NFC", "NFD", "NFKC", "NFKD")
        return normalizer.normalize_str(text) if type(normalizer).__name__ in forms else text

    def token_texts(self) -> list[str]:
        names = [each.content for each in self._whole.get_added_tokens_decoder().values()]
        pieces = sorted(self._whole.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        return [*texts_of_pieces([piece for piece, _ in pieces], byte_level=self._is_byte_level), *names]

    def fast_json(self) -> str:
        return json.dumps(for_fast_engine(without_names(json.loads(self._whole.to_str()), self._names())))


class SentencePieceOracle:
    """A tokenizer.model without a tokenizer.json. Args: special: names of control tokens with their ids, the model's own aside.

    Raises: RuntimeError if the content is no model.
    """

    library: Library = "sentencepiece"

    def __init__(self, model: bytes, special: Mapping[int, str]) -> None:
        self._processor: sentencepiece.SentencePieceProcessor = processor_of(model)
        self._special = dict(special)
        self.vocab_size = max([self._processor.GetPieceSize() - 1, *self._special]) + 1

    def encode_batch(self, texts: Sequence[str], *, num_threads: int) -> list[np.ndarray]:
        return self._processor.Encode(list(texts), out_type="numpy", num_threads=num_threads)

    def decode(self, ids: list[int]) -> str:
        size = self._processor.GetPieceSize()
        return self._processor.Decode([token for token in ids if token < size])

    def piece(self, token: int) -> str:
        size = self._processor.GetPieceSize()
        return self._processor.IdToPiece(token) if token < size else self._special.get(token, "")

    def id_of(self, piece: str) -> int | None:
        own = {name: token for token, name in self._special.items()}
        token = self._processor.PieceToId(piece)
        return token if self._processor.IdToPiece(token) == piece else own.get(piece)

    def control(self) -> dict[int, str]:
        own = range(self._processor.GetPieceSize())
        return {
            token: self._processor.IdToPiece(token) for token in own if self._processor.IsControl(token)
        } | self._special

    def byte_ids(self) -> frozenset[int]:
        return frozenset(token for token in range(self._processor.GetPieceSize()) if self._processor.IsByte(token))

    def token_bytes(self) -> TokenBytes:
        known = {token: byte_of(self.piece(token)) for token in self.byte_ids()}
        return token_bytes_by_decoding(self.decode, known=known, num_ids=self.vocab_size)

    def normalized(self, text: str) -> str:
        return text

    def token_texts(self) -> list[str]:
        return texts_of_pieces([self.piece(token) for token in range(self.vocab_size)], byte_level=False)

    def fast_json(self) -> None:
        return None


def _tokenizers(path: Path) -> Any:
    """Return the module `tokenizers`, an extra. Raises: UserError if it is not installed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are processes; it warns after a fork otherwise
    try:
        return importlib.import_module("tokenizers")
    except ImportError as problem:
        raise UserError(
            f"{path} needs the library tokenizers, which cannot be imported ({problem}); {EXTRA} installs it"
        ) from None

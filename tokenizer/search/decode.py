"""Decoding of many tokens at once to the bytes of their text, and the way back from a byte to its token."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from fanal.errors import UserError
from tokenizer.shards.manifest import DamagedShardError, shard_paths
from tokenizer.shards.shard import Shard
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.token_bytes import TokenBytes

MAX_DECODED_TOKENS = 1 << 20
"""Most tokens that are decoded in one call of pyarrow, whose offsets are of 32 bits."""
PROOF_DOCUMENTS, PROOF_TOKENS = 8, 2000
UNKNOWN_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class DecodedText:
    """Bytes of some tokens."""

    content: bytes
    ends: np.ndarray
    """Byte at which each token ends: int64 [tokens]."""

    def token_of(self, byte: int | np.ndarray) -> np.ndarray:
        """Return the number of the token that adds a byte."""
        return np.searchsorted(self.ends, byte, side="right")

    def start_of(self, token: int) -> int:
        """Return the byte at which a token starts."""
        return int(self.ends[token - 1]) if token else 0


class Decoder:
    """The bytes of a vocabulary, as tables."""

    def __init__(self, vocabulary: TokenBytes) -> None:
        self.pieces = vocabulary.pieces
        self.lengths = np.array([len(piece) for piece in vocabulary.pieces], dtype=np.int64)
        self.dropped_in_front = vocabulary.dropped_in_front
        self._drops = bool(self.dropped_in_front.any())
        self._table = pa.array(vocabulary.pieces, type=pa.binary())

    def decode(self, tokens: np.ndarray) -> DecodedText:
        """Return the text of ids, whatever documents they are of. Raises: IndexError for an id that is none."""
        texts, ends, num_bytes = [], [np.zeros(0, dtype=np.int64)], 0
        for start in range(0, len(tokens), MAX_DECODED_TOKENS):
            found = self._table.take(pa.array(np.ascontiguousarray(tokens[start : start + MAX_DECODED_TOKENS])))
            _, offsets, content = found.buffers()
            held = np.frombuffer(offsets, dtype="<i4", count=len(found) + 1)[1:]
            ends.append(held + np.int64(num_bytes))
            texts.append(content.to_pybytes()[: held[-1]] if content is not None else b"")
            num_bytes += int(held[-1])
        return DecodedText(b"".join(texts), np.concatenate(ends))

    def num_bytes(self, tokens: np.ndarray) -> int:
        """Return the bytes of the text of ids."""
        return sum(
            int(self.lengths[tokens[start : start + MAX_DECODED_TOKENS]].sum())
            for start in range(0, len(tokens), MAX_DECODED_TOKENS)
        )

    def dropped(self, document: np.ndarray) -> int:
        """Return the bytes that decoding drops in front of a document, [its tokens]."""
        if self._drops:
            for start in range(0, len(document), 64):
                ids = document[start : start + 64]
                held = ids[self.lengths[ids] > 0]
                if len(held):
                    return int(self.dropped_in_front[held[0]])
        return 0


class ShardText:
    """The text of a shard's documents.

    Raises: UserError if the tokenizer is not the shard's, or if its text is not the bytes of its tokens.
    """

    def __init__(self, shard: Shard, tokenizer: Tokenizer, decoder: Decoder) -> None:
        self.shard, self.decoder = shard, decoder
        _check_tokenizer(shard, tokenizer)
        self._check_decoding(tokenizer)

    @cached_property
    def tokens(self) -> np.ndarray:
        """All ids, [num_tokens], not negative, mapped and not read."""
        plain = self.shard.tokens.view(np.ndarray)
        return plain if plain.dtype.itemsize == 2 else plain.view("<u4")  # a negative id counts from the end to numpy

    def decode(self, start: int, end: int) -> DecodedText:
        """Return the text of tokens, whatever documents they are of. Raises: DamagedShardError."""
        with self.in_vocabulary(start, end):
            return self.decoder.decode(self.tokens[start:end])

    def num_bytes(self, start: int, end: int) -> int:
        """Return the bytes of the text of tokens. Raises: DamagedShardError."""
        with self.in_vocabulary(start, end):
            return self.decoder.num_bytes(self.tokens[start:end])

    def dropped(self, start: int, end: int) -> int:
        """Return the bytes that decoding drops in front of a document of these tokens. Raises: DamagedShardError."""
        with self.in_vocabulary(start, end):
            return self.decoder.dropped(self.tokens[start:end])

    @contextlib.contextmanager
    def in_vocabulary(self, start: int, end: int) -> Iterator[None]:
        """Look tokens up in tables of the vocabulary. Raises: DamagedShardError for the IndexError of an id that is not in it."""
        try:
            yield
        except IndexError:
            prefix = self.shard.prefix
            raise DamagedShardError(
                f"{shard_paths(prefix)[0]} has ids between token {start} and {end} that are not in its vocabulary: it changed; "
                f"`fanal tokenizer verify {prefix} --deep` tells more, copy or encode the shard again"
            ) from None

    def _check_decoding(self, tokenizer: Tokenizer) -> None:
        """Compare the text of some documents with what the tokenizer's own library decodes."""
        shard = self.shard
        for part in range(PROOF_DOCUMENTS):
            number, (start, end) = shard.document_edges(shard.num_tokens * part // PROOF_DOCUMENTS, 1)
            end = min(end, start + PROOF_TOKENS)
            ours = self.decode(start, end).content[self.dropped(start, end) :]
            texts = ours.decode("utf-8", "replace"), tokenizer.decode(self.tokens[start:end].tolist())
            # Bytes that are not UTF-8, as at a cut, are another number of these characters to each library.
            whole = min(len(text.partition(UNKNOWN_CHARACTER)[0]) for text in texts)
            if texts[0][:whole] != texts[1][:whole]:
                raise UserError(
                    f"document {number} of {shard.prefix} cannot be searched: {tokenizer.directory} decodes its tokens to another "
                    "text than that of each token; a tokenizer of byte-level BPE, or of SentencePiece, works"
                )


def _check_tokenizer(shard: Shard, tokenizer: Tokenizer) -> None:
    manifest, path = shard.manifest, shard_paths(shard.prefix)[2]
    if manifest.has_other_ids:
        raise UserError(
            f"{path} says that its ids are those of a tokenizer without a folder (has_other_ids), so nothing knows their text; "
            "encode the documents with a tokenizer that has a folder"
        )
    if manifest.tokenizer_sha256 != tokenizer.model_sha256:
        raise UserError(
            f"{path} has tokenizer_sha256 {manifest.tokenizer_sha256}, and {tokenizer.directory} is {tokenizer.model_sha256}; "
            "--tokenizer with the folder of the tokenizer that made the shard works"
        )

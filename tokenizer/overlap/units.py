"""Units in which texts are compared: tokens, or normalised words.

Tokens need no text: both sides are shards of one tokenizer, and are read as they are. Words are what is left of a text without
case, punctuation and spaces, so that a copy with other line breaks or quotation marks is found too; shards are decoded for it. The
practice is words where the held-out side is text (GPT-3: 13 words, lower-cased, without punctuation) and tokens where both sides
are tokens (Llama 2); see docs/data.md.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fanal.errors import UserError
from fanal.files import HASH_BLOCK_BYTES, sha256_of_file
from tokenizer.shards.manifest import DamagedShardError, shard_paths
from tokenizer.shards.shard import Shard
from tokenizer.shards.verify import check_tokens, index_problem
from tokenizer.vocabulary.folder import Tokenizer

By = Literal["tokens", "words"]
NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""
WORD = re.compile(rf"[{NO_SPACES}]|[^\W_{NO_SPACES}]+")
"""A word: letters and digits that follow each other; in a script without spaces, one letter."""
STRETCH_TOKENS = 1 << 18
"""Tokens that are searched at once: what belongs to them stays in a core's caches."""
STRETCH_BYTES = 1 << 20
UNKNOWN_WORD = 0
"""Unit of every word that no held-out document has; no n-gram of the index has it."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive units of a shard. Every n-gram of a document lies in one stretch, and none in two.

    Documents lie in it as ``documents`` says, which may read the shard's index, so it is asked only where something was found.
    """

    units: np.ndarray
    """Integers [units]."""
    shard: Shard
    first_token: int | None
    """Token of the first unit, where units are tokens; else None."""
    first_document: int
    """Number of the document of the first unit, where units are words; else 0."""
    end_token: int
    """Number of the shard's tokens in this stretch and those before it."""
    starts: np.ndarray | None
    """int64 [documents]: units at which documents begin, the first at 0, where units are words; else None."""

    def documents(self) -> tuple[int, np.ndarray]:
        """Return (first document, units at which the documents after it begin: int64, ascending). Raises: DamagedShardError."""
        if self.first_token is None:
            assert self.starts is not None
            return self.first_document, self.starts[1:]
        begins = self.shard.documents_in(self.first_token, len(self.units)) - self.first_token
        first = self.shard.documents_over(self.first_token, 1).start
        return first, begins[begins > 0]


def token_stretches(shard: Shard, n: int) -> Iterator[Stretch]:
    """Yield the tokens of a shard, each stretch with the n - 1 tokens that follow it. Documents may lie in several."""
    compared = Compared(shard)
    for first in range(0, shard.num_tokens, STRETCH_TOKENS):
        end = min(first + STRETCH_TOKENS + n - 1, shard.num_tokens)
        compared.up_to(end)
        yield Stretch(
            units=shard.tokens[first:end], shard=shard, first_token=first, first_document=0, end_token=end, starts=None
        )


def words_of(text: str) -> list[str]:
    """Return the words of a text, normalised: compatible forms of characters are one (NFKC), and case does not count."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class Vocabulary:
    """Words of the held-out side, each with its unit, from 1 on."""

    def __init__(self) -> None:
        self._units: dict[str, int] = {}

    def learn(self, words: Sequence[str]) -> np.ndarray:
        """Return the units of words of a held-out document: int32 [words]. A new word gets a new one."""
        units = self._units
        return np.array([units.setdefault(word, len(units) + 1) for word in words], dtype=np.int32)

    def units(self, words: Sequence[str]) -> np.ndarray:
        """Return the units of other words: int32 [words], UNKNOWN_WORD for those of no held-out document."""
        get = self._units.get
        return np.array([get(word, UNKNOWN_WORD) for word in words], dtype=np.int32)

    @property
    def num_units(self) -> int:
        """Number of units, UNKNOWN_WORD included."""
        return len(self._units) + 1


def word_stretches(shard: Shard, tokenizer: Tokenizer, vocabulary: Vocabulary) -> Iterator[Stretch]:
    """Yield the words of a shard's documents, decoded; some whole documents at a time."""
    held: list[np.ndarray] = []
    size = first = end = 0
    for number, tokens in enumerate(documents_of(shard)):
        held.append(vocabulary.units(words_of(tokenizer.decode(tokens.tolist()))))
        size, end = size + tokens.nbytes, end + len(tokens)
        if size >= STRETCH_BYTES or number == shard.num_documents - 1:
            starts = np.cumsum([0, *(len(units) for units in held[:-1])])
            yield Stretch(
                units=np.concatenate(held),
                shard=shard,
                first_token=None,
                first_document=first,
                end_token=end,
                starts=starts,
            )
            held, size, first = [], 0, number + 1


class Compared:
    """Blocks of a shard, each compared with its manifest when it is first read, so that a finding is of the bytes that it names."""

    def __init__(self, shard: Shard) -> None:
        """Raises: DamagedShardError for an index that changed."""
        self._shard = shard
        self._num_tokens = 0
        if (problem := index_problem(shard, sha256_of_file(shard_paths(shard.prefix)[1]))) is not None:
            raise DamagedShardError(problem)

    def up_to(self, token: int) -> None:
        """Compare the blocks before a token that were not compared yet. Raises: DamagedShardError."""
        while self._num_tokens < token:
            check_tokens(self._shard, self._num_tokens, 1)
            self._num_tokens += HASH_BLOCK_BYTES // self._shard.dtype.itemsize


def documents_of(shard: Shard) -> Iterator[np.ndarray]:
    """Yield the tokens of each document, in order: [tokens], mapped."""
    begin, compared = 0, Compared(shard)
    for lengths in shard.document_lengths(STRETCH_TOKENS):
        for length in lengths.tolist():
            compared.up_to(begin + length)
            yield shard.tokens[begin : begin + length]
            begin += length


def text_of_document(shard: Shard, tokens: np.ndarray) -> np.ndarray:
    """Return a document's tokens without the BOS and EOS around them, which no document has in its middle."""
    options = shard.manifest.options
    return tokens[int(options.append_bos) : len(tokens) - int(options.append_eos)]


def check_decodes(shard: Shard, tokenizer: Tokenizer) -> None:
    """Raises: UserError if the tokenizer is not the one that made the shard."""
    found, manifest = tokenizer.model_sha256, shard.manifest
    if found != manifest.tokenizer_sha256:
        raise UserError(
            f"--tokenizer {tokenizer.directory} has sha256 {found[:12]}, and {shard.prefix} was encoded with "
            f"{manifest.tokenizer_sha256[:12]}; name the tokenizer that made the shard"
        )
    if manifest.has_other_ids:
        raise UserError(
            f"{shard.prefix} holds ids of another tokenizer than {tokenizer.directory} (--ids-of-another-tokenizer), so no text "
            "comes from them; --by tokens against shards of the same ids works"
        )

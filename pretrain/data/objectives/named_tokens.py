"""Tokens that a config names, as the tokenizer spells them: name -> id."""

import difflib
from collections.abc import Mapping

import numpy as np

from fanal.errors import UserError
from fanal.shown import shown
from tokenizer.vocabulary.folder import Tokenizer

MOST_NAMED = 8
"""Tokens that a message names."""


class NamedTokens:
    """The vocabulary of a run, for the keys that name tokens of it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: Mapping[str, int] | None = None

    def id_of(self, key: str, name: str) -> int:
        """The id of the token of this name. Args: key: what states it, for the message. Raises: UserError if there is none."""
        for token in self._tokenizer.control_ids:
            if self._tokenizer.piece(token) == name:
                return token
        if self._ids is None:
            self._ids = {self._tokenizer.piece(token): token for token in range(self._tokenizer.vocab_size)}
        found = self._ids.get(name)
        if found is None:
            raise UserError(
                f"{key} ({shown(name)}) must be a token of data.tokenizer ({self._tokenizer.directory}), as its vocabulary spells "
                f"it; {self._advice(name)}"
            )
        return found

    def mark_of(self, key: str, name: str) -> int:
        """The id of a token that an objective puts between texts. Raises: UserError if there is none, or if a document begins or
        ends with it, or is padded with it: it would end where nothing ends, or not be learned."""
        token = self.id_of(key, name)
        tokenizer = self._tokenizer
        if token in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id):
            raise UserError(
                f"{key} ({shown(name)}) must be a token of its own, and documents begin, end or are padded with it; a token "
                "that is stated when the tokenizer is trained, as one of reserved_tokens of its spec, works"
            )
        return token

    def control(self, also: tuple[int, ...] = ()) -> np.ndarray:
        """Whether each id stands for no text, or is one of ``also``: bool [vocab_size]."""
        found = np.zeros(self._tokenizer.vocab_size, dtype=bool)
        for token in (*self._tokenizer.control_ids, *also):
            found[token] = True
        return found

    @property
    def eos_id(self) -> int:
        """Id that ends documents."""
        return self._tokenizer.eos_id

    def _advice(self, name: str) -> str:
        assert self._ids is not None, "it was looked up"
        control = [self._tokenizer.piece(token) for token in self._tokenizer.control_ids]
        near = difflib.get_close_matches(name, control, n=MOST_NAMED) or control[:MOST_NAMED]
        return (
            f"of those that no text produces it has {', '.join(map(shown, near))}; more of them are stated when a tokenizer is "
            "trained, as reserved_tokens of its spec"
        )

"""Sums over documents by a label of theirs, such as licence or host, for each part of a run and for all of it.

Memory: some 60 bytes for each different label and part; of web text with 10 million hosts, read in two parts, some 3 GB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.ledger.documents_read import DocumentCounts
from pretrain.ledger.labels_of_documents import Values


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What was there to be trained on, and what of it was read."""

    tokens: int
    """Tokens that were predicted, each as often as it was."""
    distinct_tokens: int
    """Different tokens that were read."""
    documents: int
    """Different documents of which a token was read."""
    available_tokens: int
    """Tokens that training could read: without what is held out."""
    available_documents: int

    @property
    def passes(self) -> float | None:
        """How often it was read, on average; None of nothing."""
        return self.tokens / self.available_tokens if self.available_tokens else None


QUANTITIES = ("tokens", "distinct_tokens", "documents", "available_tokens", "available_documents")
"""Fields of an amount, in the order of the columns here."""


class Tally:
    """Amounts by label: of the parts 0 to num_parts - 1, and of all together."""

    def __init__(self, num_parts: int) -> None:
        self._num_parts = num_parts
        self._number_of: dict[str | None, int] = {}
        self._sums = np.zeros((num_parts + 1, len(QUANTITIES), 16), np.int64)

    def add(self, block: DocumentCounts, values: Values, available: Sequence[int]) -> None:
        """Add documents of a shard. Args: available: of each part, the tokens of the shard, from the first on, that it may read."""
        here = np.array([self._number(name) for name in values.names], np.int64)
        lengths, ends = np.diff(block.bounds), block.bounds[1:]
        for part in range(self._num_parts + 1):
            in_all = part == self._num_parts
            if not in_all and not available[part]:
                continue
            distinct = block.distinct_in_all if in_all else block.distinct[part]
            tokens = block.tokens.sum(axis=0) if in_all else block.tokens[part]
            may_read = ends <= (max(available, default=0) if in_all else available[part])
            for row, amounts in enumerate((tokens, distinct, distinct > 0, lengths * may_read, may_read)):
                summed = np.bincount(values.codes, weights=amounts, minlength=len(here))  # exact below 2**53
                self._sums[part, row, here] += summed.astype(np.int64)

    def amounts(self, part: int | None) -> dict[str | None, Amount]:
        """Amounts by label, the largest first, of a part, or of all together (None). What a part has nothing of is left out."""
        sums = self._sums[self._num_parts if part is None else part]
        found = {
            name: Amount(**dict(zip(QUANTITIES, sums[:, number].tolist(), strict=True)))
            for name, number in self._number_of.items()
            if sums[:, number].any()
        }
        return dict(sorted(found.items(), key=lambda item: (-item[1].tokens, -item[1].available_tokens, item[0] or "")))

    def _number(self, name: str | None) -> int:
        number = self._number_of.setdefault(name, len(self._number_of))
        if number == self._sums.shape[2]:
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)], axis=2)
        return number

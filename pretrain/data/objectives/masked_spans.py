"""Spans that are read and not predicted, such as the turns of a user in a conversation.

A span goes from a start token to the next end token, both included, and no further than its document. Where a sample begins inside
a document, the shard says whether a span is open there: what a token counts does not depend on where samples are cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.data.objectives.samples import Samples
from tokenizer.shards.shard import Shard

LOOK_BACK_TOKENS = 65_536
"""Tokens of a shard that are searched at once for what happened before a sample."""


@dataclass(frozen=True)
class MaskedSpans:
    """Leave out the predictions of all tokens from ``start_id`` to the next ``end_id``, both included."""

    start_id: int
    end_id: int

    def apply(self, samples: Samples) -> None:
        """See the class."""
        assert samples.document_starts is not None, "a span ends with its document"
        for row, starts, shard, pieces, counted in zip(
            samples.tokens, samples.document_starts, samples.shards, samples.pieces, samples.counted, strict=True
        ):
            goes_on = [position for position, token in pieces if self.is_open_before(shard, token)]
            counted[self._inside(row, starts, goes_on)[1:]] = False

    def is_open_before(self, shard: Shard, token: int) -> bool:
        """Whether a span of the document that holds ``token`` is open in front of it.

        Reads backwards to the last start or end, at most to the document's first token.
        """
        begin = shard.document_start(token)
        while token > begin:
            first = max(begin, token - LOOK_BACK_TOKENS)
            before = np.asarray(shard.tokens[first:token])
            events = np.flatnonzero((before == self.start_id) | (before == self.end_id))
            if events.size:
                return bool(before[events[-1]] == self.start_id)
            token = first
        return False

    def _inside(self, row: np.ndarray, starts: np.ndarray, goes_on: Sequence[int]) -> np.ndarray:
        """Whether each token is of a span: bool [s + 1].

        Args: row: [s + 1]; starts: positions at which another document begins; goes_on: those at which a span goes on that an
            earlier part of the document opened, 0 or of ``starts``.
        """
        at = 2 * np.arange(2, len(row) + 2)  # 2 is the token in front of the row; odd numbers lie between tokens
        is_start, is_end = row == self.start_id, row == self.end_id
        opening = np.concatenate(([0], np.where(is_start, at, 0)))
        closing = np.concatenate(([0], np.where(is_end, at, 0)))
        # The last token before a document closes what is open, be it a start itself; what goes on opens behind it.
        closing[starts] = 2 * (starts + 1)
        opening[goes_on] = 2 * (np.array(goes_on, np.int64) + 1) + 1
        opened, closed = np.maximum.accumulate(opening), np.maximum.accumulate(closing)
        before = opened[:-1] > closed[:-1]
        return is_start | before

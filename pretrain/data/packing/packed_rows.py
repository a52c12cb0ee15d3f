"""Places -> rows of whole documents, where a place is the number of a row in its source's plan. Letters: n samples, s sequence.

A row's s + 1 tokens are its pieces, one behind the other, and what is left of it, which stands for nothing. The first token of a
piece is not predicted: nothing of its document is before it in the row. So of n tokens of a piece n - 1 are predicted, and over an
epoch every token of a document but its first, once.
"""

from collections.abc import Sequence

import numpy as np

from pretrain.data.packing.packed_order import PackedOrder
from pretrain.data.packing.plan import Plan
from pretrain.data.rows import RowReader
from pretrain.data.sources import Source


class PackedRowReader(RowReader):
    """Copies the pieces of rows."""

    def __init__(self, sources: Sequence[Source], *, seq_length: int, vocab_size: int, fill_id: int) -> None:
        """Args: fill_id: what stands behind the last piece of a row."""
        super().__init__(sources, seq_length=seq_length, vocab_size=vocab_size)
        self._fill_id = fill_id
        self._plans = [_plan_of(source) for source in sources]

    def document_starts(self, sources: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
        """Return the positions 1 to s where a piece begins, or what fills the row: int64 [pieces] each."""
        ends = (self._ends(*place) for place in zip(sources.tolist(), places.tolist(), strict=True))
        return [each[each < self.row_tokens] for each in ends]

    def counted(self, sources: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return which predictions are of a token by those before it in its document: bool [n, s]."""
        found = np.ones((len(sources), self.row_tokens - 1), dtype=bool)
        for row, source, place in zip(found, sources.tolist(), places.tolist(), strict=True):
            ends = self._ends(source, place)
            row[ends[ends < self.row_tokens] - 1] = False
            row[ends[-1] - 1 :] = False
        return found

    def pieces(self, source: int, place: int) -> list[tuple[int, int]]:
        """Return (position in the row, token in the shard) where each piece of a row begins."""
        starts, _ = self._plans[source].pieces(place)
        return list(zip([0, *self._ends(source, place)[:-1].tolist()], starts, strict=True))

    def _copy(self, sources: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        for row, source, place in zip(out, sources.tolist(), places.tolist(), strict=True):
            tokens, at = self._tokens_of(source), 0
            for start, length in zip(*self._plans[source].pieces(place), strict=True):
                row[at : at + length] = tokens[start : start + length]
                at += length
            row[at:] = self._fill_id

    def _ends(self, source: int, place: int) -> np.ndarray:
        """Position in the row behind each of its pieces: int64 [pieces]."""
        return np.cumsum(self._plans[source].pieces(place)[1])


def _plan_of(source: Source) -> Plan:
    assert isinstance(source.order, PackedOrder), f"{source.shard.prefix} is not packed"
    return source.order.plan

"""Places -> rows of tokens in host memory, where a place is a row's first token in its shard. Letters: n samples, s sequence."""

from collections.abc import Sequence

import numpy as np

from pretrain.data.documents import starts_in_chunk
from pretrain.data.sources import Source
from tokenizer.shards.manifest import DamagedShardError


class DamagedTokenError(DamagedShardError):
    """A shard's tokens are not what its manifest says."""


class RowReader:
    """Copies spans of the shards of some sources. A shard is mapped when its first span is read.

    Rows that are made otherwise have a reader of their own (``packing/packed_rows.py``), whose places are other numbers.
    """

    def __init__(self, sources: Sequence[Source], *, seq_length: int, vocab_size: int) -> None:
        self.sources = list(sources)
        self.row_tokens = seq_length + 1
        self.vocab_size = vocab_size
        self._stored_bytes = max((source.shard.dtype.itemsize for source in sources), default=0)
        self._tokens: list[np.ndarray | None] = [None] * len(sources)

    def read(self, sources: np.ndarray, start_tokens: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill ``out`` (integers [n, s + 1], returned) with the s + 1 tokens from each start on.

        Args: sources, start_tokens: int64 [n]; starts count from the shard's first token.
        Raises: DamagedTokenError naming shard and token for an id that no token has.
        """
        if out.itemsize < self._stored_bytes:  # a damaged id would become another one on its way into fewer bytes
            out[:] = self.read(sources, start_tokens, np.empty(out.shape, np.int64))
            return out
        self._copy(sources, start_tokens, out)
        if (
            out.size and out.view(f"u{out.itemsize}").max() >= self.vocab_size
        ):  # as unsigned, a negative id is the largest
            self._refuse(sources, start_tokens, out)
        return out

    def document_starts(self, sources: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
        """Return the positions 1 to s where a document starts, for each place: int64 [documents] each."""
        return [
            starts_in_chunk(self.sources[source].shard, start, self.row_tokens - 1)
            for source, start in zip(sources.tolist(), places.tolist(), strict=True)
        ]

    def counted(self, sources: np.ndarray, places: np.ndarray) -> np.ndarray | None:
        """Return which predictions there are at all in these rows, bool [n, s]; None if all."""
        del sources, places
        return None

    def pieces(self, source: int, place: int) -> list[tuple[int, int]]:
        """Return the parts of the shard that a row is made of: (position in the row, token in the shard) where each begins."""
        del source
        return [(0, place)]

    def _copy(self, sources: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        length = self.row_tokens
        for row, source, start in zip(out, sources.tolist(), places.tolist(), strict=True):
            row[:] = self._tokens_of(source)[start : start + length]

    def _tokens_of(self, source: int) -> np.ndarray:
        tokens = self._tokens[source]
        if tokens is None:
            # A plain view: slices of a memmap cost a microsecond each.
            tokens = self._tokens[source] = np.asarray(self.sources[source].shard.tokens).view(np.ndarray)
        return tokens

    def _refuse(self, sources: np.ndarray, places: np.ndarray, rows: np.ndarray) -> None:
        row, column = np.argwhere(rows.view(f"u{rows.itemsize}") >= self.vocab_size)[0].tolist()
        shard = self.sources[sources[row]].shard
        pieces = self.pieces(int(sources[row]), int(places[row]))
        position, token = next(piece for piece in reversed(pieces) if piece[0] <= column)
        raise DamagedTokenError(
            f"shard {shard.prefix} holds id {rows[row, column]} at token {token + column - position}, expected 0 to "
            f"{self.vocab_size - 1}: its .bin changed after its manifest was written; copy or encode the shard again, and run "
            f"`fanal tokenizer verify {shard.prefix} --deep`"
        )

"""Places in shards -> tokens in host memory. Letters: n samples, s sequence."""

from collections.abc import Sequence

import numpy as np

from pretrain.data.sources import Source
from tokenizer.shards.manifest import DamagedShardError


class DamagedTokenError(DamagedShardError):
    """A shard's tokens are not what its manifest says."""


class RowReader:
    """Copies spans of the shards of some sources. A shard is mapped when its first span is read."""

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
        mapped, length = self._tokens, self.row_tokens
        for row, source, start in zip(out, sources.tolist(), start_tokens.tolist(), strict=True):
            tokens = mapped[source]
            if tokens is None:
                # A plain view: slices of a memmap cost a microsecond each.
                tokens = mapped[source] = np.asarray(self.sources[source].shard.tokens).view(np.ndarray)
            row[:] = tokens[start : start + length]
        if (
            out.size and out.view(f"u{out.itemsize}").max() >= self.vocab_size
        ):  # as unsigned, a negative id is the largest
            self._refuse(sources, start_tokens, out)
        return out

    def _refuse(self, sources: np.ndarray, start_tokens: np.ndarray, rows: np.ndarray) -> None:
        row, column = np.argwhere(rows.view(f"u{rows.itemsize}") >= self.vocab_size)[0].tolist()
        shard = self.sources[sources[row]].shard
        raise DamagedTokenError(
            f"shard {shard.prefix} holds id {rows[row, column]} at token {start_tokens[row] + column}, expected 0 to "
            f"{self.vocab_size - 1}: its .bin changed after its manifest was written; copy or encode the shard again, and run "
            f"`fanal tokenizer verify {shard.prefix} --deep`"
        )

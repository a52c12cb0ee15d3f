"""What is said of each document of a shard, block by block: language, licence and host, from its columns or from its manifest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow

from tokenizer.shards.document_columns import DocumentColumns
from tokenizer.shards.manifest import ShardManifest
from tokenizer.shards.rows_in_turn import RowsInTurn

DIMENSIONS = ("language", "licence", "host")
"""What documents are grouped by, beside their source."""


@dataclass(frozen=True)
class Values:
    """One value for each of some documents."""

    codes: np.ndarray
    """Index in ``names`` of each document's value: int64 [D]."""
    names: list[str | None]
    """Different values; None where nothing is said."""


class DocumentLabels:
    """The labels of a shard's documents, taken in order."""

    def __init__(
        self, manifest: ShardManifest, columns: DocumentColumns | None, dimensions: Sequence[str] = DIMENSIONS
    ) -> None:
        given = {"language": manifest.language, "licence": manifest.licence, "host": None}
        self._given = {name: given[name] for name in dimensions}
        self.from_columns = tuple(name for name in dimensions if columns is not None and name in columns.names)
        """Dimensions that are known document by document."""
        has_any = columns is not None and bool(self.from_columns)
        self._rows = RowsInTurn(columns, self.from_columns) if columns is not None and has_any else None

    def take(self, count: int) -> dict[str, Values]:
        """The labels of the next ``count`` documents, by dimension."""
        table = self._rows.take(count) if self._rows is not None else None
        return {
            name: self._encoded(name, table.column(name))
            if table is not None and name in self.from_columns
            else Values(np.zeros(count, np.int64), [self._given[name]])
            for name in self._given
        }

    def _encoded(self, name: str, column: pyarrow.ChunkedArray) -> Values:
        """Where a document says nothing, what its shard says of all counts."""
        if (given := self._given[name]) is not None:
            column = column.fill_null(given)
        encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
        if isinstance(encoded, pyarrow.ChunkedArray):  # of an empty column, or of several chunks in older versions
            encoded = pyarrow.concat_arrays(encoded.unify_dictionaries().chunks)
        return Values(encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())

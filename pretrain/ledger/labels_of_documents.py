"""What is said of each document of a shard, block by block: language, licence and host, from its columns or from its manifest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow

from tokenizer.shards.document_columns import DocumentColumns
from tokenizer.shards.manifest import ShardManifest

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
        found = iter(()) if columns is None or not self.from_columns else columns.batches(self.from_columns)
        self._batches: Iterator[pyarrow.RecordBatch] = found
        self._left: pyarrow.Table | None = None

    def take(self, count: int) -> dict[str, Values]:
        """The labels of the next ``count`` documents, by dimension."""
        table = self._next_rows(count) if self.from_columns else None
        return {
            name: self._encoded(name, table.column(name))
            if table is not None and name in self.from_columns
            else Values(np.zeros(count, np.int64), [self._given[name]])
            for name in self._given
        }

    def _next_rows(self, count: int) -> pyarrow.Table:
        """Rows of as many batches as hold ``count``; what is left of the last waits."""
        tables = [] if self._left is None else [self._left]
        held = sum(table.num_rows for table in tables)
        while held < count:
            tables.append(pyarrow.Table.from_batches([next(self._batches)]))
            held += tables[-1].num_rows
        table = pyarrow.concat_tables(tables)
        self._left = table.slice(count)
        return table.slice(0, count)

    def _encoded(self, name: str, column: pyarrow.ChunkedArray) -> Values:
        """Where a document says nothing, what its shard says of all counts."""
        if (given := self._given[name]) is not None:
            column = column.fill_null(given)
        encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
        if isinstance(encoded, pyarrow.ChunkedArray):  # of an empty column, or of several chunks in older versions
            encoded = pyarrow.concat_arrays(encoded.unify_dictionaries().chunks)
        return Values(encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist())

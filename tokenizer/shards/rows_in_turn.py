"""Some columns of a shard's documents, as many rows at a time as are asked for."""

from collections.abc import Iterator, Sequence

import pyarrow

from tokenizer.shards.document_columns import DocumentColumns


class RowsInTurn:
    """Rows of some columns, taken in order. Memory holds what is asked for at once, and some thousand rows more."""

    def __init__(self, columns: DocumentColumns, names: Sequence[str]) -> None:
        self._batches: Iterator[pyarrow.RecordBatch] = columns.batches(names)
        self._left: pyarrow.Table | None = None

    def take(self, count: int) -> pyarrow.Table:
        """The next ``count`` rows. Raises: DamagedShardError."""
        tables = [] if self._left is None else [self._left]
        held = sum(table.num_rows for table in tables)
        while held < count:
            tables.append(pyarrow.Table.from_batches([next(self._batches)]))
            held += tables[-1].num_rows
        table = pyarrow.concat_tables(tables)
        self._left = table.slice(count)
        return table.slice(0, count)

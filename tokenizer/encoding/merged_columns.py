"""Columns of parts while these are merged: read in step with the documents, and lines counted from each file's beginning."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from tokenizer.documents.column_fields import FILE, ORIGIN, POSITION
from tokenizer.shards.columns_writer import schema_of
from tokenizer.shards.document_columns import DocumentColumns, open_columns
from tokenizer.shards.manifest import ShardManifest


class PartColumns:
    """Columns of one part, taken in its order. Memory holds what is taken at a time, and a batch.

    Args: lines_before, lines of input files that earlier parts read.
    Attributes: names, the columns behind ORIGIN.
    """

    def __init__(self, columns: DocumentColumns, lines_before: Mapping[str, int]) -> None:
        self.names = tuple(name for name in columns.stored_names if name not in ORIGIN)
        self._lines_before = dict(lines_before)
        self._batches = columns.batches(columns.stored_names)
        self._held = schema_of(self.names).empty_table()

    def take(self, num_documents: int) -> pyarrow.Table:
        """Return the rows of the next documents."""
        tables = [self._held]
        num_held = self._held.num_rows
        while num_held < num_documents:
            tables.append(self._counted(next(self._batches)))
            num_held += tables[-1].num_rows
        table = pyarrow.concat_tables(tables)
        self._held = table.slice(num_documents)
        return table.slice(0, num_documents)

    def _counted(self, batch: pyarrow.RecordBatch) -> pyarrow.Table:
        """Return rows with texts in place of numbers in a dictionary, and lines from each file's beginning."""
        files: Any = batch.column(FILE)
        shifts = np.array([self._lines_before.get(path, 0) for path in files.dictionary.to_pylist()], dtype=np.int64)
        positions = batch.column(POSITION).to_numpy() + shifts[files.indices.to_numpy()]
        table = pyarrow.Table.from_batches([batch])
        table = table.set_column(0, FILE, [files.cast(pyarrow.string())])
        return table.set_column(1, POSITION, [pyarrow.array(positions)])


def open_part_columns(parts: Sequence[tuple[Path, ShardManifest]]) -> list[PartColumns]:
    """Open the columns of all parts, which have some, in the order of their numbers. Raises: ShardError, DamagedShardError."""
    lines_before: Counter[str] = Counter()
    opened = []
    for prefix, manifest in parts:
        columns = open_columns(prefix, manifest)
        assert columns is not None, f"{prefix} has no columns"
        opened.append(PartColumns(columns, lines_before))
        lines_before.update(columns.cut_files)
    return opened

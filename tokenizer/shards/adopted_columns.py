"""Columns that lie beside a shard without a manifest, and are taken over with it by `adopt`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from fanal.errors import error_type, may_pass
from tokenizer.documents.column_fields import FILE, ORIGIN, POSITION
from tokenizer.shards.columns_writer import schema_of
from tokenizer.shards.manifest import ShardError, documents_path


class AdoptedColumns:
    """Columns of documents that are about to be adopted.

    Attributes: columns, the names of those behind ORIGIN.
    Raises: ShardError, naming what does not fit, for a file that is no Parquet, has other columns than text (and ``file`` and
    ``position`` at first), or not one row a document.
    """

    def __init__(self, prefix: str | Path, num_documents: int) -> None:
        self._path = documents_path(prefix)
        try:
            self._file = pyarrow.parquet.ParquetFile(self._path, page_checksum_verification=True)
        except (pyarrow.ArrowException, OSError) as problem:
            raise self._unreadable(problem) from None
        names = self._file.schema_arrow.names
        self.columns = tuple(name for name in names if name not in ORIGIN)
        schema, found = schema_of(self.columns), self._file.schema_arrow
        other = [name for name in names if name != POSITION and not _is_text(found.field(name).type)]
        if tuple(names[:2]) != ORIGIN or found.field(POSITION).type != schema.field(POSITION).type or other:
            wrong = f"column {other[0]!r} of {found.field(other[0]).type}" if other else f"columns {', '.join(names)}"
            raise ShardError(
                f"{self._path} has {wrong}, expected {FILE} (text), {POSITION} (int64) and then columns of text; write it so, or "
                "move it away"
            )
        if self._file.metadata.num_rows != num_documents:
            raise ShardError(
                f"{self._path} has {self._file.metadata.num_rows} rows, expected one for each of {num_documents} documents; write "
                "it so, or move it away"
            )

    def found(self) -> tuple[str, ...]:
        """Return the names of the columns that hold something, ORIGIN's always. Reads the file."""
        has_values = dict.fromkeys(self.columns, False)
        for batch in self._batches():
            for name in self.columns:
                has_values[name] |= batch.column(name).null_count < batch.num_rows
        return (*ORIGIN, *(name for name, some in has_values.items() if some))

    def rows_of(self, taken: np.ndarray) -> Iterator[pyarrow.Table]:
        """Yield the rows of some documents, in order. Args: taken, whether each is among them, bool [documents]."""
        first = 0
        for batch in self._batches():
            mask = pyarrow.array(taken[first : first + batch.num_rows])
            yield pyarrow.Table.from_batches([batch]).filter(mask)
            first += batch.num_rows

    def _batches(self) -> Iterator[pyarrow.RecordBatch]:
        try:
            yield from self._file.iter_batches(use_threads=False)
        except (pyarrow.ArrowException, OSError) as problem:
            raise self._unreadable(problem) from None

    def _unreadable(self, problem: BaseException) -> Exception:
        error = error_type(problem, ShardError) if may_pass(problem) else ShardError
        return error(f"{self._path} cannot be read as Parquet ({problem}); copy it again, or move it away")


def _is_text(kind: pyarrow.DataType) -> bool:
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)

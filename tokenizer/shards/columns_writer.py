"""Writer of a shard's columns (document_columns.py). The bytes depend on the rows alone, not on how they come."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

from fanal.files import sha256_of_file, sync
from tokenizer.documents.column_fields import FILE, ORIGIN, POSITION
from tokenizer.shards.document_rows import DocumentRows, unpack_rows

ROW_GROUP_ROWS = 1 << 12
"""Rows that are packed together. Looking one up reads so many, 0.2 us each; and the footer, read at every opening, has 0.5 kB for
each group: 12 MB for 100 million documents."""
CUT_FILES = b"fanal.lines"
"""Key of the footer of a part: lines in its share of each input file that other parts read as well, as JSON."""


class WrittenColumns(NamedTuple):
    """What a manifest says of the file."""

    sha256: str
    names: tuple[str, ...]
    """Columns that hold something, ORIGIN's always."""


def schema_of(columns: Sequence[str]) -> pyarrow.Schema:
    """Return the schema of a file with these columns behind those of ORIGIN."""
    texts = [(name, pyarrow.string()) for name in columns]
    return pyarrow.schema([(FILE, pyarrow.string()), (POSITION, pyarrow.int64()), *texts])


class ColumnsWriter:
    """Writer of one new file. Memory holds a row group.

    Args: columns, the names of those behind ORIGIN. One of which no row has a value is in the file, where it takes no room, and not
    among the names that the manifest gives.
    Raises: OSError.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.num_rows = 0
        self._path = path
        self._schema = schema_of(columns)
        self._found = dict.fromkeys(self._schema.names, False) | dict.fromkeys(ORIGIN, True)
        self._stream = path.open("xb", buffering=1 << 20)
        self._writer = pyarrow.parquet.ParquetWriter(
            self._stream,
            self._schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=[name for name in self._schema.names if name not in (POSITION, "id")],  # type: ignore[arg-type]
            column_encoding={POSITION: "DELTA_BINARY_PACKED"},
            write_statistics=False,
            store_schema=False,
            write_page_checksum=True,
        )
        self._packed: list[bytes] = []
        self._num_packed = 0
        self._paths: Sequence[str] = ()
        self._held: list[pyarrow.Table] = []
        self._num_held = 0

    def add_rows(self, rows: DocumentRows, paths: Sequence[str]) -> None:
        """Append rows. Args: paths, by the number of the file in each row; the same at every call."""
        self._packed.append(rows.data.tobytes())
        self._num_packed += len(rows)
        self._paths = paths
        if self._num_packed >= ROW_GROUP_ROWS:
            self._unpack()

    def add(self, table: pyarrow.Table) -> None:
        """Append the rows of a table that has this file's columns."""
        self._held.append(table.select(self._schema.names).cast(self._schema))
        self.num_rows += table.num_rows
        self._num_held += table.num_rows
        if self._num_held >= ROW_GROUP_ROWS:
            self._write(self._num_held // ROW_GROUP_ROWS * ROW_GROUP_ROWS)

    def finish(self, num_documents: int, cut_files: Mapping[str, int] | None) -> WrittenColumns:
        """Write what is left, and bring the file to disk. Args: as ``ShardWriter.finish``."""
        self._unpack()
        self._write(self._num_held)
        assert self.num_rows == num_documents, f"{self.num_rows} rows for {num_documents} documents"
        if cut_files:
            self._writer.add_key_value_metadata({CUT_FILES: json.dumps(dict(cut_files))})
        self._writer.close()
        with self._stream:
            sync(self._stream)
        return WrittenColumns(sha256_of_file(self._path), tuple(name for name, found in self._found.items() if found))

    def close(self) -> None:
        """Let go of the file, finished or not."""
        with contextlib.suppress(OSError, ValueError, pyarrow.ArrowException):  # was raised already
            self._writer.close()
        with contextlib.suppress(OSError):
            self._stream.close()

    def _unpack(self) -> None:
        """Make a table of the rows that came packed."""
        if self._num_packed:
            numbers, positions, *values = zip(*unpack_rows(b"".join(self._packed)), strict=True)
            self._packed, self._num_packed = [], 0
            columns = [[self._paths[number] for number in numbers], positions, *values]
            arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self.add(pyarrow.Table.from_arrays(arrays, schema=self._schema))

    def _write(self, num_rows: int) -> None:
        """Write the first rows of those that are held, in groups."""
        table = pyarrow.concat_tables(self._held or [self._schema.empty_table()])
        for first in range(0, num_rows, ROW_GROUP_ROWS):
            # In one piece: the pages of a row group depend on the pieces that it is written in.
            group = table.slice(first, min(ROW_GROUP_ROWS, num_rows - first)).combine_chunks()
            self._writer.write_table(group)
            for name in self._schema.names:
                self._found[name] |= group[name].null_count < group.num_rows
        self._held, self._num_held = [table.slice(num_rows)], table.num_rows - num_rows

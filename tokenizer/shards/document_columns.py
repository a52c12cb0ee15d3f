"""Columns of a shard's documents, PREFIX.documents.parquet: where each document came from, and what its input said of it.

One row a document, in the order of the shard. Columns, of which a shard has those that its input gave (``documents_columns`` of its
manifest):

file       string    input file, as the manifest's ``input_files`` spell it
position   int64     line from 1, row of a Parquet file from 0, or 0 where the file is the document
id         string    the document's own name
host       string    registrable domain of its URL, by the public suffix list
licence, language, date
           string    as the document says
...        string    fields that the user asked to keep, by their names

All but the first two may be null. In one part of many, lines of a file that it began in the middle count from there; `merge` counts
them from the file's beginning. Training never opens the file. Written by columns_writer.py.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from fanal.errors import error_type, may_pass, user_path
from fanal.files import sha256_of_file
from tokenizer.documents.column_fields import FILE, POSITION
from tokenizer.shards.columns_writer import CUT_FILES
from tokenizer.shards.manifest import DamagedShardError, ShardError, ShardManifest, documents_path

LOOKUP_GROUPS = 16
"""Row groups that a look-up reads and converts together: some MB, and a third less time than one by one, since threads that look up
in other shards wait for the interpreter at each call."""
REMEDY = "copy it again from an intact copy, or encode the shard again"


def open_columns(prefix: str | Path, manifest: ShardManifest) -> "DocumentColumns | None":
    """Open the columns of a shard; None if its manifest knows of none. The cost is that of the file's footer.

    Raises: ShardError if the file is missing; DamagedShardError if it is not one of as many documents and these columns, or no
    Parquet file. That its bytes are those that were written, ``check_hash`` says.
    """
    return None if manifest.documents_sha256 is None else DocumentColumns(Path(prefix), manifest)


class DocumentColumns:
    """Opened columns of a shard's documents.

    Attributes: names, the columns that hold something.
    """

    def __init__(self, prefix: Path, manifest: ShardManifest) -> None:
        self._path = documents_path(prefix)
        self._manifest = manifest
        self.names = manifest.documents_columns
        with user_path(self._path):
            exists = self._path.is_file()
        if not exists:
            raise ShardError(
                f"{self._path} does not exist, and the shard's manifest says that it does; copy or encode the shard again"
            )
        # A value that many documents have is decoded once, in some 60 % of the time.
        self._file = self._opened([name for name in self.names if name not in (POSITION, "id")])
        self._check_footer()
        metadata = self._file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @property
    def stored_names(self) -> tuple[str, ...]:
        """Names of all columns of the file, of those too that hold nothing."""
        return tuple(self._file.schema_arrow.names)

    @property
    def cut_files(self) -> dict[str, int]:
        """Of a part: lines in its share of each input file that other parts read as well."""
        stated = (self._file.metadata.metadata or {}).get(CUT_FILES)
        return {} if stated is None else json.loads(stated)

    def rows(self, documents: Sequence[int]) -> list[dict[str, str | int | None]]:
        """Return what is known of these documents, by column, in the order given. Memory holds some row groups at a time.

        Raises: DamagedShardError.
        """
        numbers = np.asarray(documents, dtype=np.int64)
        assert not len(numbers) or 0 <= numbers.min() <= numbers.max() < self._manifest.num_documents, (
            "no such document"
        )
        groups = np.searchsorted(self._starts, numbers, side="right") - 1
        found: list[dict[str, str | int | None]] = [{}] * len(numbers)
        needed = np.unique(groups)
        for first in range(0, len(needed), LOOKUP_GROUPS):
            together = needed[first : first + LOOKUP_GROUPS]
            places = np.flatnonzero((groups >= together[0]) & (groups <= together[-1]))
            for place, row in zip(
                places.tolist(), self._rows_of(together, groups[places], numbers[places]), strict=True
            ):
                found[place] = row
        return found

    def _rows_of(
        self, together: np.ndarray, groups: np.ndarray, numbers: np.ndarray
    ) -> Iterator[dict[str, str | int | None]]:
        """Yield rows by number and group, of row groups that are read together."""
        sizes = np.diff(self._starts)[together]
        first_rows = np.cumsum(sizes) - sizes
        inside = numbers - self._starts[groups] + first_rows[np.searchsorted(together, groups)]
        table = self._read(lambda: self._file.read_row_groups(together.tolist(), self.names, use_threads=False))
        taken = table.take(pyarrow.array(inside.tolist(), pyarrow.int64())).cast(self._plain_schema)
        for values in zip(*(column.to_pylist() for column in taken.columns), strict=True):
            yield dict(zip(self.names, values, strict=True))

    def batches(self, columns: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
        """Yield these columns of all documents, in order, some thousand documents at a time. Raises: DamagedShardError."""
        batches = self._plain.iter_batches(columns=list(columns), use_threads=False)
        while (batch := self._read(lambda: next(batches, None))) is not None:
            yield batch

    def check_hash(self) -> None:
        """Read the complete file, and compare it with the manifest. Raises: DamagedShardError."""
        found = sha256_of_file(self._path)
        if found != self._manifest.documents_sha256:
            raise DamagedShardError(
                f"{self._path} has sha256 {found}, expected {self._manifest.documents_sha256}; its bytes changed, {REMEDY}"
            )

    @cached_property
    def _plain_schema(self) -> pyarrow.Schema:
        return pyarrow.schema(
            [(name, pyarrow.int64() if name == POSITION else pyarrow.string()) for name in self.names]
        )

    @cached_property
    def _plain(self) -> pyarrow.parquet.ParquetFile:
        """The file with texts as texts, all but the names of files."""
        return self._opened([FILE], self._file.metadata)

    def _opened(
        self, by_dictionary: Sequence[str], footer: pyarrow.parquet.FileMetaData | None = None
    ) -> pyarrow.parquet.ParquetFile:
        return self._read(
            lambda: pyarrow.parquet.ParquetFile(
                self._path,
                metadata=footer,
                read_dictionary=by_dictionary,
                page_checksum_verification=True,
                pre_buffer=False,
            )
        )

    def _check_footer(self) -> None:
        num_rows, names = self._file.metadata.num_rows, self._file.schema_arrow.names
        if num_rows != self._manifest.num_documents:
            raise DamagedShardError(
                f"{self._path} has {num_rows} rows, expected one for each of {self._manifest.num_documents} documents; {REMEDY}"
            )
        missing = [name for name in self.names if name not in names]
        if missing:
            raise DamagedShardError(f"{self._path} has no column {missing[0]!r}, which the manifest names; {REMEDY}")

    def _read(self, act: Any) -> Any:
        """Return what is read. Raises: DamagedShardError for bytes that are no Parquet; PassingError where the disk gives none."""
        try:
            return act()
        except (pyarrow.ArrowException, OSError) as problem:
            if may_pass(problem) or (
                isinstance(problem, OSError) and problem.errno is not None
            ):  # Arrow's own has no number
                raise error_type(problem)(
                    f"{self._path} cannot be read: {problem}; try again, perhaps on another node"
                ) from None
            raise DamagedShardError(f"{self._path} cannot be read as Parquet ({problem}); {REMEDY}") from None

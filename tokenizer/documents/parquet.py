"""Rows of a Parquet file, as Arrow streams that a worker can read. Memory is bounded by what pages say of themselves, whatever the
file's size (parquet_pages.py)."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from fanal.errors import error_type, may_pass
from fanal.plain_files import open_plain
from tokenizer.documents.compressed import HashedFile
from tokenizer.documents.parquet_pages import PageError, bounds_of
from tokenizer.documents.unreadable import made_of, not_parquet

BATCH_BYTES = 64 << 20
"""Bytes of rows that are unpacked at a time, at most, unless one row is longer."""
MAX_PAGE_BYTES = 512 << 20
"""Bytes of a page of each column that is read, with the dictionaries, at most: a page is unpacked as a whole, in several copies."""
MAX_EXPANSION = 16
"""Bytes that each byte of such pages in the file may give, if that is more. Text gives some five, and books make large pages."""
MAX_ROWS = 1 << 16
"""Rows unpacked at a time, at most: rows of nulls take no room in a file."""


class NotRowsError(Exception):
    """A file, or the rest of one, cannot be read as rows; the message says why, and what to do."""


def row_blocks(path: Path, columns: Sequence[str], block_bytes: int, stream: HashedFile) -> Iterator[tuple[bytes, int]]:
    """Yield (Arrow stream of about block_bytes of rows, number of the first row). The first column is required.

    Args: stream is the same file; it is read, and so hashed, in step with the rows.
    Raises: NotRowsError if the file is not Parquet, is damaged, lacks the first of the columns, or has a page that is too large;
    as ``reading``.
    """
    held: list[pyarrow.RecordBatch] = []
    first = held_bytes = num_rows = 0
    try:
        for batch, read_share in _batches(path, columns, block_bytes):
            held.append(batch)
            held_bytes, num_rows = held_bytes + batch.nbytes, num_rows + batch.num_rows
            if held_bytes < block_bytes and num_rows < MAX_ROWS:
                continue
            stream.read_to(int(stream.size * read_share))
            yield _arrow_stream(held), first
            first, held_bytes, num_rows = first + num_rows, 0, 0
            held.clear()
    except NotRowsError:
        if held:
            yield _arrow_stream(held), first
        raise
    if held:
        yield _arrow_stream(held), first


def _arrow_stream(batches: Sequence[pyarrow.RecordBatch]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _batches(path: Path, columns: Sequence[str], block_bytes: int) -> Iterator[tuple[pyarrow.RecordBatch, float]]:
    """Yield (rows, at most block_bytes of them or one; share of the file's rows that are read then). Raises: as ``row_blocks``."""
    try:
        with (
            os.fdopen(open_plain(path), "rb") as plain,
            pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file,
        ):
            names = file.schema_arrow.names
            if columns[0] not in names:
                raise NotRowsError(f"has no column {columns[0]!r}; {_other_columns(file.schema_arrow)}")
            done = 0
            lists = _columns_of_lists(file)
            if columns[0] in lists:
                raise NotRowsError(
                    f"has lists in column {columns[0]!r}, and needs text there; {_other_columns(file.schema_arrow)}"
                )
            wanted = [name for name in columns if name in names and name not in lists]
            leaves = [number for number, path in enumerate(_paths(file)) if any(map(path.startswith, _begins(wanted)))]
            refused = [name for name in columns if name in lists]
            for group in range(file.num_row_groups):
                num_rows = _rows_at_a_time(path, plain.fileno(), file.metadata, group, leaves)
                for batch in file.iter_batches(batch_size=num_rows, row_groups=[group], columns=wanted):
                    batch.validate(full=True)  # Parquet does not say that text is UTF-8
                    for piece in _cut(_plain(batch, refused), block_bytes):
                        done += piece.num_rows
                        yield piece, min(1.0, done / max(1, file.metadata.num_rows))
    except (pyarrow.ArrowException, OSError, PageError) as problem:
        if may_pass(problem) or (
            isinstance(problem, OSError) and problem.errno is not None
        ):  # pyarrow's own has no number
            raise error_type(problem)(f"{path} cannot be read as Parquet ({problem}); copy the file again") from None
        raise NotRowsError(not_parquet(path, problem)) from None


def _paths(file: pyarrow.parquet.ParquetFile) -> list[str]:
    return [f"{file.schema.column(number).path}." for number in range(len(file.schema))]


def _begins(names: Sequence[str]) -> list[str]:
    """Return how the paths of the columns begin that pyarrow reads for these names: of their parts, too."""
    return [f"{name}." for name in names]


def _columns_of_lists(file: pyarrow.parquet.ParquetFile) -> set[str]:
    """Return the names of columns with several values a row, whose memory no number of rows bounds."""
    repeated = [path for n, path in enumerate(_paths(file)) if file.schema.column(n).max_repetition_level]
    names = file.schema_arrow.names
    return {
        name for name, begin in zip(names, _begins(names), strict=True) if any(p.startswith(begin) for p in repeated)
    }


def _rows_at_a_time(path: Path, descriptor: int, metadata: Any, group: int, leaves: Sequence[int]) -> int:
    """Return how many rows of a row group have BATCH_BYTES at most, whichever they are. Raises: NotRowsError, PageError."""
    held = metadata.row_group(group)
    bounds = [bounds_of(descriptor, held.column(leaf)) for leaf in leaves]
    page_bytes = sum(column.page_bytes for column in bounds)
    if page_bytes > max(MAX_PAGE_BYTES, MAX_EXPANSION * sum(column.packed_bytes for column in bounds)):
        raise NotRowsError(
            f"has pages in row group {group} that unpack to {page_bytes:,} bytes at once, more than {MAX_PAGE_BYTES:,} and more "
            f"than {MAX_EXPANSION} times what they have in the file; if that is meant, {_with_small_pages(path)} writes it anew"
        )
    repeated = sum(column.repeated_bytes for column in bounds)
    if sum(column.written_bytes for column in bounds) > BATCH_BYTES // 2:
        rows = BATCH_BYTES // max(1, repeated + page_bytes)
    else:
        rows = BATCH_BYTES // 2 // max(1, repeated)
    return min(MAX_ROWS, max(1, rows))


def _with_small_pages(path: Path) -> str:
    program = (
        "import sys, pyarrow.parquet as p; f = p.ParquetFile(sys.argv[1]); w = p.ParquetWriter(sys.argv[2], f.schema_arrow, "
        "use_dictionary=False, write_batch_size=64); [w.write_batch(b) for b in f.iter_batches(1000)]; w.close()"
    )
    return made_of(path, program, path.with_name(f"{path.stem}.small-pages.parquet"))


def _plain(batch: pyarrow.RecordBatch, lists: Sequence[str]) -> pyarrow.RecordBatch:
    """Return the rows with values in place of numbers in a dictionary, and with an empty list in each of the columns ``lists``: no
    document may have one, whatever it holds."""
    columns = [
        column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    empty = pyarrow.array([[]] * batch.num_rows, pyarrow.list_(pyarrow.null())) if lists else None
    return pyarrow.RecordBatch.from_arrays([*columns, *(empty for _ in lists)], names=[*batch.schema.names, *lists])


def _cut(batch: pyarrow.RecordBatch, block_bytes: int) -> Iterator[pyarrow.RecordBatch]:
    """Yield the rows in parts of at most block_bytes, or one row."""
    if batch.nbytes <= block_bytes or batch.num_rows < 2:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _cut(batch.slice(0, half), block_bytes)
    yield from _cut(batch.slice(half), block_bytes)


def _other_columns(schema: pyarrow.Schema) -> str:
    texts = [
        each.name for each in schema if pyarrow.types.is_string(each.type) or pyarrow.types.is_large_string(each.type)
    ]
    works = f": --text-field {texts[0]} works" if texts else ", none of them of text"
    return f"its columns are {', '.join(schema.names)}{works}"


def rows(data: bytes) -> list[dict[str, object]]:
    """Return the rows of one block, as JSON lines would give them."""
    with pyarrow.ipc.open_stream(data) as reader:
        return reader.read_all().to_pylist()

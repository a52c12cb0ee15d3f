"""Rows of a Parquet file, as Arrow streams that a worker can read."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from fanal.errors import error_type, may_pass
from tokenizer.documents.compressed import HashedFile
from tokenizer.documents.unreadable import not_parquet


class NotRowsError(Exception):
    """A file, or the rest of one, cannot be read as rows; the message says why, and what to do."""


def row_blocks(path: Path, columns: Sequence[str], block_bytes: int, stream: HashedFile) -> Iterator[tuple[bytes, int]]:
    """Yield (Arrow stream of about block_bytes of rows, number of the first row). The first column is required.

    Args: stream is the same file; it is read, and so hashed, in step with the rows.
    Raises: NotRowsError if the file is not Parquet, is damaged, or lacks the first of the columns; as ``reading``.
    """
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = file.schema_arrow.names
            if columns[0] not in names:
                raise NotRowsError(f"has no column {columns[0]!r}; {_other_columns(file.schema_arrow)}")
            first = 0
            wanted = [name for name in columns if name in names]
            for group in range(file.num_row_groups):
                held = file.metadata.row_group(group)
                num_rows = max(1, block_bytes * held.num_rows // max(1, held.total_byte_size))
                for batch in file.iter_batches(batch_size=num_rows, row_groups=[group], columns=wanted):
                    batch.validate(full=True)  # Parquet does not say that text is UTF-8
                    sink = pyarrow.BufferOutputStream()
                    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
                        writer.write_batch(batch)
                    stream.read_to(stream.size * (first + batch.num_rows) // file.metadata.num_rows)
                    yield sink.getvalue().to_pybytes(), first
                    first += batch.num_rows
    except (pyarrow.ArrowException, OSError) as problem:
        if may_pass(problem) or (
            isinstance(problem, OSError) and problem.errno is not None
        ):  # pyarrow's own has no number
            raise error_type(problem)(f"{path} cannot be read as Parquet ({problem}); copy the file again") from None
        raise NotRowsError(not_parquet(path, problem)) from None


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

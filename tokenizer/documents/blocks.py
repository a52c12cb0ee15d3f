"""Input files of documents (see input_files.py), cut into blocks that workers can parse by themselves.

A file is read once, in order, and hashed on the way. Memory holds one block, and more only for a document longer than it.

One part of many (`Part`) reads a share of all bytes, in the order of the inputs. Lines of a file that is not compressed
belong to the part in which their first byte lies; any other file belongs to the part in which it starts.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import zstandard

from fanal.errors import UserError
from fanal.files import READ_BLOCK_BYTES, InputFile, reading
from tokenizer.documents.compressed import HashedFile, decompressed
from tokenizer.documents.input_files import Layout, TxtDocuments, find_inputs, is_compressed, layout_of

BLOCK_BYTES = 4 << 20
MAX_DOCUMENT_BYTES = 256 << 20
"""Longest accepted line or text, in bytes. A longer one is refused: memory holds several copies of it."""
TEXT_PER_COMPRESSED_BYTE = 5
"""Approximate bytes of text per compressed byte; it sizes temporary files, nothing else."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The share of an encode run that one machine takes: part ``number`` of ``count``."""

    number: int = 1
    """Number of the part, counted from 1."""
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UserError(f"part {self.number}/{self.count} must be I/N with 1 <= I <= N; 1/1 is the complete input")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class RawBlock:
    """Some complete documents, not yet parsed, in the form in which a worker gets them."""

    path: str
    file_number: int
    """Position of the file among all inputs."""
    layout: Layout
    data: bytes
    """Lines, a whole text, or an Arrow stream of rows."""
    first: int
    """Start of the data: byte of the (decompressed) file, or row."""
    first_line: int | None
    """Line number of the first line, from 1; None if a part began in the middle of the file and never counted."""

    def line_number(self, lines_before: int) -> int:
        """Return the line number in the file of the line that follows ``lines_before`` lines of this block."""
        return self._counted_first_line + lines_before

    @cached_property
    def _counted_first_line(self) -> int:
        if self.first_line is not None:
            return self.first_line
        with reading(Path(self.path)), Path(self.path).open("rb") as stream:
            left, count = self.first, 1
            while left and (content := stream.read(min(left, READ_BLOCK_BYTES))):
                left, count = left - len(content), count + content.count(b"\n")
        return count


class InputReader:
    """Reader that yields the blocks of some input files, once.

    Attributes: sizes (path and bytes of every file, other parts' too), total_bytes (this part's share), text_bytes (approximate,
    when decompressed), bytes_read (of total_bytes, so far), input_files (each file whose end, or end of
    the share, was reached). Raises, when iterated: UserError for a file that is damaged or changed meanwhile.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        *,
        columns: Sequence[str] = ("text",),
        txt_documents: TxtDocuments = "file",
        part: Part | None = None,
    ) -> None:
        self.paths = find_inputs(inputs)
        self.columns = tuple(columns)
        self.txt_documents: TxtDocuments = txt_documents
        self._sizes = [_size(path) for path in self.paths]
        self.sizes = [(str(path), size) for path, size in zip(self.paths, self._sizes, strict=True)]
        for path, size in zip(self.paths, self._sizes, strict=True):
            if not size:
                raise UserError(f"{path} is empty; every input file must hold at least one document, leave it out")
        part = part or Part()
        everything = sum(self._sizes)
        self._begin = everything * (part.number - 1) // part.count
        self._end = everything * part.number // part.count
        self.total_bytes = self._end - self._begin
        grow = [TEXT_PER_COMPRESSED_BYTE if is_compressed(path) else 1 for path in self.paths]
        whole_text = sum(size * factor for size, factor in zip(self._sizes, grow, strict=True))
        self.text_bytes = whole_text * self.total_bytes // everything
        self.bytes_read = 0
        self.input_files: list[InputFile] = []
        self._started = False

    def __iter__(self) -> Iterator[RawBlock]:
        assert not self._started, "an InputReader is read once; make a new one"
        self._started = True
        before = 0
        for number, (path, size) in enumerate(zip(self.paths, self._sizes, strict=True)):
            layout = layout_of(path, self.txt_documents)
            if layout in ("json lines", "text lines") and not is_compressed(path):
                begin, end = max(0, self._begin - before), min(size, self._end - before)
                if begin < end:
                    yield from self._share_of_lines(path, number, layout, begin, end, size)
            elif self._begin <= before < self._end:
                yield from self._whole_file(path, number, layout, size)
            before += size

    def _share_of_lines(
        self, path: Path, number: int, layout: Layout, begin: int, end: int, size: int
    ) -> Iterator[RawBlock]:
        """Yield the lines of an uncompressed file whose first byte lies in [begin, end)."""
        with HashedFile(path, begin=begin, end=end, size=size) as stream:
            first, rest = _behind_line(stream, begin) if begin else (0, b"")
            for data, at, line in whole_lines(
                stream, path, first=first, first_line=None if begin else 1, rest=rest, end=end
            ):
                self.bytes_read += len(data)
                yield RawBlock(path=str(path), file_number=number, layout=layout, data=data, first=at, first_line=line)
            self.input_files.append(stream.finish())

    def _whole_file(self, path: Path, number: int, layout: Layout, size: int) -> Iterator[RawBlock]:
        read_before = self.bytes_read
        with HashedFile(path, begin=0, end=size, size=size) as stream:
            if layout == "parquet rows":
                from tokenizer.documents.parquet import (
                    row_blocks,  # pyarrow takes a second to import, for this format alone
                )

                pieces = row_blocks(path, self.columns, BLOCK_BYTES, stream)
            elif layout == "text file":
                pieces = whole_text(decompressed(stream, path), path)
            else:
                pieces = whole_lines(decompressed(stream, path), path, first=0, first_line=1)
            try:
                for data, at, line in pieces:
                    self.bytes_read = read_before + stream.position
                    yield RawBlock(
                        path=str(path), file_number=number, layout=layout, data=data, first=at, first_line=line
                    )
            except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as problem:
                raise UserError(f"{path} cannot be decompressed ({problem}); copy the file again") from None
            self.input_files.append(stream.finish())
        self.bytes_read = read_before + size


def _size(path: Path) -> int:
    with reading(path):
        return path.stat().st_size


Piece = tuple[bytes, int, int | None]
"""Bytes of whole documents, the first one's place (byte or row), and its line number if there are lines."""


def _behind_line(stream: HashedFile, begin: int) -> tuple[int, bytes]:
    """Return the first byte of the first line that begins at or after ``begin``, and the bytes read from there on."""
    first = stream.seek(begin - 1)
    while content := stream.read(READ_BLOCK_BYTES):
        if cut := content.find(b"\n") + 1:
            return first + cut, content[cut:]
        first += len(content)
    return first, b""


def whole_lines(
    stream, path: Path, *, first: int, first_line: int | None, rest: bytes = b"", end: int | None = None
) -> Iterator[Piece]:
    """Yield complete lines, about BLOCK_BYTES at a time; only "\\n" ends a line.

    Args: the stream stands after ``rest``, which begins at byte ``first``, the start of line ``first_line``; lines whose
    first byte lies at or after ``end`` are left out.
    """
    if end is not None and first >= end:
        return
    held, size = [rest], len(rest)  # from `first` on
    while True:
        # What was read to find a part's first line may be all there is, so look at it before reading on.
        if end is not None and first + size >= end:
            data = b"".join(held)
            if stop := data.find(b"\n", max(0, end - 1 - first)) + 1:
                yield data[:stop], first, first_line
                return
            held = [data]
        if size > MAX_DOCUMENT_BYTES:
            place = f"{path}:{first_line}" if first_line else f"{path}, byte {first}"
            raise UserError(
                f"{place}: the line is longer than {MAX_DOCUMENT_BYTES} bytes; cut this document into several"
            )
        content = stream.read(BLOCK_BYTES)
        if not content:
            break
        held.append(content)
        size += len(content)
        cut = content.rfind(b"\n") + 1
        if size < BLOCK_BYTES or not cut or (end is not None and first + size >= end):
            continue
        held[-1] = content[:cut]
        data = b"".join(held)
        yield data, first, first_line
        first += len(data)
        first_line = first_line and first_line + data.count(b"\n")
        held, size = [content[cut:]], len(content) - cut
    if size:
        yield b"".join(held), first, first_line


def whole_text(stream, path: Path) -> Iterator[Piece]:
    """Yield the complete file as one document."""
    held, size = [], 0
    while content := stream.read(BLOCK_BYTES):
        held.append(content)
        size += len(content)
        if size > MAX_DOCUMENT_BYTES:
            raise UserError(
                f"{path} as one document is longer than {MAX_DOCUMENT_BYTES} bytes; --txt-documents line makes each line one"
            )
    yield b"".join(held), 0, None

"""Input files of documents (see input_files.py), cut into blocks that workers can parse by themselves.

A file is read once, in order, and hashed on the way. Memory holds one block, and more only for a document longer than it.

One part of many (`Part`) reads a share of all bytes, in the order of the inputs. Lines of a file that is not compressed
belong to the part in which their first byte lies; any other file belongs to the part in which it starts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from fanal.errors import UserError
from fanal.files import READ_BLOCK_BYTES, InputFile, reading
from tokenizer.documents.compressed import NOT_DECOMPRESSED, HashedFile, WindowError, decompressed
from tokenizer.documents.file_names import Layout, TxtDocuments, is_compressed, layout_of
from tokenizer.documents.input_files import find_inputs
from tokenizer.documents.unreadable import head_of, not_compressed_so, not_lines_of_json, not_plain_text, unpacked

BLOCK_BYTES = 4 << 20
MAX_DOCUMENT_BYTES = 256 << 20
"""Longest accepted line or text, in bytes. A longer one is refused: memory holds several copies of it."""
EMPTY = "is empty; every input file must hold at least one document, leave it out"
OR_SKIP = "; --on-error skip leaves out what cannot be read, and names it"
"""What else helps, for the command that has this option."""
OnError = Literal["stop", "skip"]
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
    share_line: int | None = None
    """Line number of the first line, from 1 at the first line of this part's share of the file; None if there are no lines."""
    problem: str | None = None
    """What is wrong with the line or the file that begins here, in place of data."""
    of_file: bool = False
    """Whether the problem is that of the complete file, or of its rest."""

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

    Args: on_error, whether files that cannot be read stop the command or are left out, as the user said; None where there is no
    such choice.
    Attributes: found (the inputs, and what was left out of them), sizes (path and bytes of every file, other parts' too),
    total_bytes (this part's share), text_bytes (approximate, when decompressed), bytes_read (of total_bytes, so far),
    input_files (each file whose end, or end of the share, was reached), cut_files (number of lines in this part's share of each
    file that other parts read as well). What cannot be read is a block with a problem.
    Raises, when iterated: UserError for a file that changed meanwhile.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        *,
        columns: Sequence[str] = ("text",),
        txt_documents: TxtDocuments = "file",
        part: Part | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self.found = find_inputs(inputs)
        self.paths = self.found.paths
        self.columns = tuple(columns)
        self.txt_documents: TxtDocuments = txt_documents
        self._sizes = [_size(path) for path in self.paths]
        self.sizes = [(str(path), size) for path, size in zip(self.paths, self._sizes, strict=True)]
        if on_error != "skip" and 0 in self._sizes:  # before anything is read
            raise UserError(f"{self.paths[self._sizes.index(0)]} {EMPTY}{OR_SKIP if on_error else ''}")
        part = part or Part()
        everything = sum(self._sizes)
        self._begin = everything * (part.number - 1) // part.count
        self._end = everything * part.number // part.count
        self.total_bytes = self._end - self._begin
        grow = [TEXT_PER_COMPRESSED_BYTE if is_compressed(path) else 1 for path in self.paths]
        whole_text = sum(size * factor for size, factor in zip(self._sizes, grow, strict=True))
        self.text_bytes = whole_text * self.total_bytes // max(1, everything)
        self._is_last = part.number == part.count
        self.bytes_read = 0
        self.input_files: list[InputFile] = []
        self.cut_files: dict[str, int] = {}
        self._started = False

    def __iter__(self) -> Iterator[RawBlock]:
        assert not self._started, "an InputReader is read once; make a new one"
        self._started = True
        before = 0
        for number, (path, size) in enumerate(zip(self.paths, self._sizes, strict=True)):
            layout = layout_of(path, self.txt_documents)
            if not size:
                if self._begin <= before < self._end or (before == self._end and self._is_last):
                    yield _block(Piece(problem=EMPTY, of_file=True), path, number, layout)
            elif layout in ("json lines", "text lines") and not is_compressed(path):
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
            strange = _strange_lines(path, layout, head_of(path)) if begin else None
            first, rest = _behind_line(stream, begin) if begin else (0, b"")
            pieces = whole_lines(stream, first=first, first_line=None if begin else 1, rest=rest, end=end)
            num_lines = 0
            for piece in [] if strange else _sound(pieces, path, layout):  # the first part says what is strange
                self.bytes_read += len(piece.data)
                yield _block(piece, path, number, layout)
                if (begin, end) != (0, size) and piece.share_line is not None:
                    num_lines = piece.share_line - 1 + _num_lines(piece)
            if (begin, end) != (0, size):
                self.cut_files[str(path)] = num_lines
            self.input_files.append(stream.finish())

    def _whole_file(self, path: Path, number: int, layout: Layout, size: int) -> Iterator[RawBlock]:
        read_before = self.bytes_read
        with HashedFile(path, begin=0, end=size, size=size) as stream:
            if layout == "parquet rows":
                pieces = _rows(path, self.columns, stream)
            elif layout == "text file":
                pieces = whole_text(decompressed(stream, path))
            else:
                pieces = whole_lines(decompressed(stream, path), first=0, first_line=1)
            for piece in _sound(pieces, path, layout):
                self.bytes_read = read_before + stream.position
                yield _block(piece, path, number, layout)
            self.input_files.append(stream.finish())
        self.bytes_read = read_before + size


def _size(path: Path) -> int:
    with reading(path):
        return path.stat().st_size


class Piece(NamedTuple):
    """Whole documents of a file, or what is wrong with it."""

    data: bytes = b""
    first: int = 0
    """Place of the first document: byte or row."""
    first_line: int | None = 1
    """Line number of the first document, if there are lines."""
    share_line: int | None = None
    """The same, counted from where what is read of the file begins; None if there are no lines."""
    problem: str | None = None
    of_file: bool = False


def _num_lines(piece: Piece) -> int:
    """Return the number of lines that a piece stands for: a line that is too long is one without data."""
    return piece.data.count(b"\n") + (not piece.data.endswith(b"\n"))


def _block(piece: Piece, path: Path, number: int, layout: Layout) -> RawBlock:
    return RawBlock(path=str(path), file_number=number, layout=layout, **piece._asdict())


def _sound(pieces: Iterator[Piece], path: Path, layout: Layout) -> Iterator[Piece]:
    """Yield the pieces up to where the file cannot be read as what its name says, and then that."""
    try:
        for piece in pieces:
            if piece.first == 0 and (problem := _strange_lines(path, layout, piece.data)):
                yield Piece(problem=problem, of_file=True)
                return
            yield piece
    except WindowError as problem:
        yield Piece(problem=f"{problem}; if that is meant, {unpacked(path)} unpacks it", of_file=True)
    except NOT_DECOMPRESSED as problem:
        yield Piece(problem=not_compressed_so(path, problem), of_file=True)


def _strange_lines(path: Path, layout: Layout, head: bytes) -> str | None:
    """Return what a file is instead of what its name says, by its first bytes; None if nothing speaks against it."""
    if layout == "parquet rows":
        return None
    return (not_lines_of_json if layout == "json lines" else not_plain_text)(path, head)


def _rows(path: Path, columns: Sequence[str], stream: HashedFile) -> Iterator[Piece]:
    # pyarrow takes a second to import, for this format alone
    from tokenizer.documents.parquet import NotRowsError, row_blocks

    try:
        for data, first in row_blocks(path, columns, BLOCK_BYTES, stream):
            yield Piece(data, first, None)
    except NotRowsError as problem:
        yield Piece(problem=str(problem), of_file=True)


def _behind_line(stream: HashedFile, begin: int) -> tuple[int, bytes]:
    """Return the first byte of the first line that begins at or after ``begin``, and the bytes read from there on."""
    first = stream.seek(begin - 1)
    while content := stream.read(READ_BLOCK_BYTES):
        if cut := content.find(b"\n") + 1:
            return first + cut, content[cut:]
        first += len(content)
    return first, b""


def _contents(stream, rest: bytes, first: int, end: int | None) -> Iterator[bytes]:
    """Yield what is read from byte ``first`` on, to the end of the last line whose first byte lies before ``end``."""
    content, at = rest, first
    while True:
        # What was read to find a part's first line may be all there is, so look at it before reading on.
        if end is not None and at + len(content) >= end and (stop := content.find(b"\n", max(0, end - 1 - at)) + 1):
            yield content[:stop]
            return
        if content:
            yield content
        at += len(content)
        content = stream.read(BLOCK_BYTES)
        if not content:
            return


def whole_lines(
    stream, *, first: int, first_line: int | None, rest: bytes = b"", end: int | None = None
) -> Iterator[Piece]:
    """Yield complete lines, about BLOCK_BYTES at a time; only "\\n" ends a line. A line that is too long is a piece with that
    problem, and is read past without being held.

    Args: the stream stands after ``rest``, which begins at byte ``first``, the start of line ``first_line``; lines whose
    first byte lies at or after ``end`` are left out.
    """
    if end is not None and first >= end:
        return
    held = _Lines(first, first_line)
    tail, tail_bytes, too_long = list[bytes](), 0, False  # of the line that is being read
    try:
        for content in _contents(stream, rest, first, end):
            line_end = content.find(b"\n")
            if tail_bytes + (len(content) if line_end < 0 else line_end) > MAX_DOCUMENT_BYTES:
                if not too_long:
                    yield from held.taken()
                    yield Piece(
                        first=held.first,
                        first_line=held.first_line,
                        share_line=held.share_line,
                        problem=f"the line is longer than {MAX_DOCUMENT_BYTES} bytes; cut this document into several",
                    )
                    tail, too_long = [], True
                if line_end < 0:
                    tail_bytes += len(content)
                    continue
                held.pass_over(tail_bytes + line_end + 1)
                content, tail_bytes, too_long = content[line_end + 1 :], 0, False
            cut = content.rfind(b"\n") + 1
            if cut:
                held.add(*tail, content[:cut])
                tail, tail_bytes = [], 0
            tail.append(content[cut:])
            tail_bytes += len(content) - cut
            if held.num_bytes and held.num_bytes + tail_bytes >= BLOCK_BYTES:
                yield from held.taken()
    except NOT_DECOMPRESSED:
        yield from held.taken()
        raise
    if tail_bytes and not too_long:
        held.add(*tail)
    yield from held.taken()


class _Lines:
    """Complete lines that were read and not yet handed on, from byte ``first`` and line ``first_line`` on."""

    def __init__(self, first: int, first_line: int | None) -> None:
        self.first, self.first_line, self.share_line, self.num_bytes = first, first_line, 1, 0
        self._content: list[bytes] = []

    def add(self, *content: bytes) -> None:
        self._content += content
        self.num_bytes += sum(map(len, content))

    def pass_over(self, num_bytes: int) -> None:
        """Go on behind one line that is not handed on."""
        self.first += num_bytes
        self._go_on(1)

    def taken(self) -> Iterator[Piece]:
        """Yield the lines as one piece, if there are any, and go on behind them."""
        if self.num_bytes:
            data = b"".join(self._content)
            self._content.clear()
            piece = Piece(data, self.first, self.first_line, self.share_line)
            self.first, self.num_bytes = self.first + len(data), 0
            self._go_on(data.count(b"\n"))
            yield piece

    def _go_on(self, num_lines: int) -> None:
        self.first_line = self.first_line and self.first_line + num_lines
        self.share_line += num_lines


def whole_text(stream) -> Iterator[Piece]:
    """Yield the complete file as one document, or the problem that it is too long for one."""
    held, size = [], 0
    while content := stream.read(BLOCK_BYTES):
        held.append(content)
        size += len(content)
        if size > MAX_DOCUMENT_BYTES:
            problem = (
                f"as one document is longer than {MAX_DOCUMENT_BYTES} bytes; --txt-documents line makes each line one where "
                "there is that option, else cut it into several files"
            )
            yield Piece(problem=problem, of_file=True)
            return
    yield Piece(b"".join(held), 0, None)

"""Files that are hashed while they are read, and the decompression of .gz and .zst files."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import zstandard

from fanal.errors import UserError
from fanal.files import HASH_BLOCK_BYTES, READ_BLOCK_BYTES, BlockHasher, InputFile, reading
from tokenizer.documents.file_names import GZIP_SUFFIXES, ZSTANDARD_SUFFIXES

MAX_WINDOW_BYTES = 1 << 31
"""Largest Zstandard window: what `zstd --long=31` writes."""
USUAL_WINDOW_BYTES = 1 << 27
"""Largest window that `zstd -d` takes without being asked. A larger one is memory that a few kilobytes of zeros fill."""
MAX_EXPANSION = 64
"""Bytes that each compressed byte of a frame with such a window may give."""
FRAME_HEADER_BYTES = 18
"""Longest header of a frame."""
FED_BYTES = 1 << 12
NOT_DECOMPRESSED = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
"""Errors of compressed bytes that are cut, changed, or not of that compression."""


class WindowError(Exception):
    """A frame asks for a window of memory that its few bytes fill. The message says it all."""


class HashedFile(io.RawIOBase):
    """A file that hashes, while it is read, the 64 MiB blocks which begin in [begin, end).

    So parts of a file, read on several machines, give the hashes of the complete file.
    """

    def __init__(self, path: Path, *, begin: int, end: int, size: int) -> None:
        self.path, self.size, self.position = path, size, 0
        self.first_block = -(-begin // HASH_BLOCK_BYTES)
        self._hash_from = self.first_block * HASH_BLOCK_BYTES
        self._hash_to = min(size, -(-end // HASH_BLOCK_BYTES) * HASH_BLOCK_BYTES)
        self._hasher = BlockHasher()
        with reading(path):
            self._file = path.open("rb", buffering=0)

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place before the first hashed block, before anything is read."""
        assert self.position == 0 and whence == 0 and offset <= self._hash_from, "hashed bytes are read in order"
        self.position = self._file.seek(offset)
        return self.position

    def read(self, size: int = -1) -> bytes:
        with reading(self.path):
            content = self._file.read(size)
        low = min(max(self._hash_from - self.position, 0), len(content))
        high = min(max(self._hash_to - self.position, 0), len(content))
        self._hasher.update(memoryview(content)[low:high])
        self.position += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def read_to(self, position: int) -> None:
        """Read and hash up to ``position``."""
        while self.position < position and self.read(min(READ_BLOCK_BYTES, position - self.position)):
            pass

    def finish(self) -> InputFile:
        """Read on to the end of the last block that is hashed.

        Raises: UserError if the file has another size by now.
        """
        self.read_to(self._hash_to)
        with reading(self.path):
            now = self.path.stat().st_size
        if now != self.size or self.position < self._hash_to:
            raise UserError(
                f"{self.path} had {self.size} bytes and has {now} now: it is being written; start again when it is complete"
            )
        return InputFile(
            path=str(self.path), bytes=self.size, first_block=self.first_block, block_sha256=self._hasher.hexdigests()
        )


class GzipStream:
    """Decompressed content of a gzip file, member after member. Unlike the library's own reader it gives all that lies before
    the place where the file is cut or changed."""

    def __init__(self, file: HashedFile) -> None:
        self._file = gzip.GzipFile(fileobj=io.BufferedReader(file, READ_BLOCK_BYTES))
        self._problem: Exception | None = None

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer at the end. Raises: one of NOT_DECOMPRESSED."""
        if self._problem is not None:
            raise self._problem
        content, missing = [], size
        while missing:
            try:
                some = self._file.read1(missing)
            except NOT_DECOMPRESSED as problem:
                if not content:
                    raise
                self._problem = problem
                break
            if not some:
                break
            content.append(some)
            missing -= len(some)
        return b"".join(content)


class ZstandardStream:
    """Decompressed content of a Zstandard file, frame after frame. Unlike the library's own reader it detects a
    truncated file, and a frame that takes gigabytes for kilobytes."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file
        self._frame: Any = None
        self._compressed = b""
        self._window = self._frame_fed = self._frame_given = 0

    def read(self, size: int) -> bytes:
        """Return some bytes, more or fewer than ``size``; empty at the end. Raises: EOFError where a frame is cut; WindowError."""
        while True:
            if len(self._compressed) < (FRAME_HEADER_BYTES if self._frame is None else 1):
                self._compressed += self._file.read(1 << 17)
            # A little at a time: a kilobyte of it may hold megabytes.
            compressed, self._compressed = self._compressed[:FED_BYTES], self._compressed[FED_BYTES:]
            if not compressed:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a Zstandard frame")
                return b""
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
                self._window = zstandard.get_frame_parameters(compressed).window_size
                self._frame_fed = self._frame_given = 0
            content = self._frame.decompress(compressed)
            self._check_window(len(compressed), len(content))
            if self._frame.eof:
                self._compressed, self._frame = self._frame.unused_data + self._compressed, None
            if content:
                return content

    def _check_window(self, num_fed: int, num_given: int) -> None:
        self._frame_fed, self._frame_given = self._frame_fed + num_fed, self._frame_given + num_given
        allowed = max(USUAL_WINDOW_BYTES, MAX_EXPANSION * self._frame_fed)
        if self._window > USUAL_WINDOW_BYTES and self._frame_given > allowed:
            raise WindowError(
                f"asks for a window of {self._window:,} bytes in memory, above the usual {USUAL_WINDOW_BYTES:,}, and gives more "
                f"than {MAX_EXPANSION} times the bytes that it has"
            )


def decompressed(file: HashedFile, path: Path) -> Any:
    """Return a stream with read(size): the decompressed content of a .gz or .zst, or the file itself."""
    if path.suffix.lower() in GZIP_SUFFIXES:
        return GzipStream(file)
    return ZstandardStream(file) if path.suffix.lower() in ZSTANDARD_SUFFIXES else file

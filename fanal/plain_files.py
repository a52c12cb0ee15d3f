"""Plain files: opened only if they are files, and read whole only up to a size.

In a folder that others can write, or that came from elsewhere, a name may be a pipe that nobody ever writes to, a device without
end, or a file of terabytes that takes no room. Each is refused as soon as it is opened.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fanal.files import READ_BLOCK_BYTES

MAX_WHOLE_BYTES = 64 << 20
"""Largest file of names and numbers that is read whole, unless its reader says otherwise: parsed as JSON it takes a GB or two."""
MAX_TOKENIZER_BYTES = 128 << 20
"""Largest file of a tokenizer that is read: those with the largest vocabularies in use have some 40 MB."""
_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def open_plain(path: str | Path) -> int:
    """Open a file for reading and return its descriptor. Links are followed (see links.py), and nothing is waited for.

    Raises: OSError, with words, if it is not a file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'no file')}, and must be a file", str(path))


def plain_stream(path: Path) -> IO[bytes]:
    """Return a file, open for reading. Raises: as ``open_plain``."""
    return os.fdopen(open_plain(path), "rb")


def read_plain(path: Path, *, max_bytes: int = MAX_WHOLE_BYTES) -> bytes:
    """Read a whole file. Raises: OSError as ``open_plain``, or if it has more than ``max_bytes``."""
    with plain_stream(path) as stream:
        return _read_whole(stream, path, max_bytes)


def read_descriptor(descriptor: int, path: Path, *, max_bytes: int = MAX_WHOLE_BYTES) -> bytes:
    """Read a whole open file and close it. Raises: OSError, naming the path, if it has more than ``max_bytes``."""
    with os.fdopen(descriptor, "rb") as stream:
        return _read_whole(stream, path, max_bytes)


def read_named(path: Path, *, max_bytes: int) -> bytes:
    """Read a whole file that a user names, a pipe as well: a shell's ``<(command)`` is one.

    Raises: OSError if it cannot be read, or gives more than ``max_bytes``.
    """
    with path.open("rb") as stream:
        return _read_whole(stream, path, max_bytes)


def _read_whole(stream: IO[bytes], path: Path, max_bytes: int) -> bytes:
    size = os.fstat(stream.fileno()).st_size
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and may have {max_bytes:,}", str(path))
    content = b"".join(_up_to(stream, max_bytes + 1))
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than the {max_bytes:,} bytes that it may have", str(path))
    return content


def _up_to(stream: IO[bytes], num_bytes: int) -> Iterator[bytes]:
    while num_bytes and (block := stream.read(min(READ_BLOCK_BYTES, num_bytes))):
        yield block
        num_bytes -= len(block)

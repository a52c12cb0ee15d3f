"""Write one big file past the page cache: the disk takes the bytes from where they are, and the cores stay with the training.

Through the page cache each byte is copied once more, and what the cache cannot hold waits for the disk anyway. A file system
that does not know O_DIRECT, or wants other borders than PAGE_BYTES, gets plain writes. No torch here.
"""

import errno
import fcntl
import mmap
import os
from pathlib import Path

WRITE_BLOCK_BYTES = 8 << 20
PAGE_BYTES = 4096
"""Places in memory and file, and lengths, are multiples of it; headers are padded to it (shard_file.py)."""
NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
"""What a file system answers that does not know O_DIRECT, or wants other places and lengths."""


def write_through(path: Path, header: bytes, numbers: memoryview) -> None:
    """A new file of the two, on the disk when this returns. ``numbers`` begins at a border of pages.

    Raises: OSError.
    """
    descriptor = _create(path)
    try:
        # Not closed here: an error on its way out has views of it, and it goes when the last one does.
        at_border = memoryview(mmap.mmap(-1, max(len(header), 1)))[: len(header)]
        at_border[:] = header
        _write(descriptor, at_border)
        _write(descriptor, numbers)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno not in NO_DIRECT:
            raise
        # Linux has made the file by then: what it refused is the way to write it.
        path.unlink(missing_ok=True)
        return os.open(path, flags, 0o666)


def _write(descriptor: int, content: memoryview) -> None:
    while content:
        block = content[:WRITE_BLOCK_BYTES]
        if len(block) % PAGE_BYTES:
            block = block[: len(block) // PAGE_BYTES * PAGE_BYTES] or block
        if len(block) < PAGE_BYTES:
            go_through_page_cache(descriptor)
        try:
            count = os.write(descriptor, block)
        except OSError as error:
            if error.errno not in NO_DIRECT or not is_direct(descriptor):
                raise
            go_through_page_cache(descriptor)
            continue
        if count % PAGE_BYTES:  # a disk that fills up takes what it has room for
            go_through_page_cache(descriptor)
        content = content[count:]


def is_direct(descriptor: int) -> bool:
    """Whether it goes past the page cache."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def go_through_page_cache(descriptor: int) -> None:
    """From now on."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)

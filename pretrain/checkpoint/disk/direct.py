"""Write or read one big file past the page cache: the disk and the memory of the training meet, and the cores stay free.

Through the page cache each byte is copied once more, by cores that have hashes to compute, and what the cache cannot hold waits
for the disk anyway. A file system that does not know O_DIRECT, or wants other borders than PAGE_BYTES, gets plain reads and
writes. No torch here.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pretrain.checkpoint.disk.manifest import open_plain_file

WRITE_BLOCK_BYTES = 8 << 20
READ_BLOCK_BYTES = 4 << 20
PAGE_BYTES = 4096
"""Unit of direct reads and writes: places in memory and file, and lengths, are multiples of it, and headers are padded to it
(shard_file.py)."""
NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
"""Errors of a file system that does not know O_DIRECT, or wants other places and lengths."""


def write_through(path: Path, header: bytes, numbers: memoryview) -> None:
    """Write a new file of header and numbers; it is on the disk when this returns. ``numbers`` begins at a border of pages.

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


def read_past_cache(path: Path) -> Iterator[memoryview]:
    """Read the bytes of a file in order, in blocks. Each is valid until the next one is asked for: two buffers take turns.

    Raises: OSError; also if it is a link or not a plain file.
    """
    with open_plain_file(path) as stream, ThreadPoolExecutor(1) as ahead:
        descriptor = stream.fileno()
        _go_past_page_cache(descriptor)
        content = memoryview(_memory(2 * READ_BLOCK_BYTES))
        now, then = content[:READ_BLOCK_BYTES], content[READ_BLOCK_BYTES:]
        place, coming = 0, ahead.submit(_fill, descriptor, now, 0)
        while count := coming.result():
            place += count
            coming = ahead.submit(_fill, descriptor, then, place)
            yield now[:count]
            now, then = then, now


def _memory(num_bytes: int) -> mmap.mmap:
    """Return anonymous memory, in huge pages where there are some: a disk fills a few long pieces three times as fast as many
    short ones.

    Nobody closes it: it goes when the last view of a block does."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _fill(descriptor: int, block: memoryview, place: int) -> int:
    """Fill a block from a file; return the number of bytes read, fewer than the block has only where the file ends."""
    held = 0
    while held < len(block):
        try:
            count = os.preadv(descriptor, [block[held:]], place + held)
        except OSError as error:
            if error.errno not in NO_DIRECT or not is_direct(descriptor):
                raise
            go_through_page_cache(descriptor)
            continue
        if count == 0:
            break
        held += count
        if held % PAGE_BYTES and is_direct(descriptor):  # the end, or near it
            go_through_page_cache(descriptor)
    return held


def _go_past_page_cache(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError as error:
        if error.errno not in NO_DIRECT:
            raise


def is_direct(descriptor: int) -> bool:
    """Return whether reads and writes of a file go past the page cache."""
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def go_through_page_cache(descriptor: int) -> None:
    """Let reads and writes of a file go through the page cache from now on."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)

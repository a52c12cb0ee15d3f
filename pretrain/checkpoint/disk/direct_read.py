"""Read one big file past the page cache, a block ahead of whoever uses the blocks.

Through the page cache each byte is copied once more, by cores that have hashes to compute. A file system that does not know
O_DIRECT gets plain reads. No torch here.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pretrain.checkpoint.disk.direct_write import NO_DIRECT, PAGE_BYTES, go_through_page_cache, is_direct
from pretrain.checkpoint.disk.manifest import open_plain_file

READ_BLOCK_BYTES = 4 << 20


def read_past_cache(path: Path) -> Iterator[memoryview]:
    """The bytes of a file in order, in blocks. Each is good until the next one is asked for: two places take turns.

    Raises: OSError; also if it is a link or no plain file.
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
    """In huge pages where there are some: a disk fills a few long pieces of memory three times as fast as many short ones.

    Nobody closes it: it goes when the last view of a block does."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _fill(descriptor: int, block: memoryview, place: int) -> int:
    """Bytes read, fewer than the block has only where the file ends."""
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

"""A file written past the page cache is the bytes that were asked for, on file systems that know how and on those that do not."""

import errno
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoint.disk import direct
from pretrain.checkpoint.disk.direct import PAGE_BYTES, WRITE_BLOCK_BYTES, write_through
from pretrain.checkpoint.disk.shard_file import header_bytes
from tests.runs.disks import no_file_longer_than

LENGTHS = (0, 4, PAGE_BYTES, PAGE_BYTES + 4, WRITE_BLOCK_BYTES, WRITE_BLOCK_BYTES + 3 * PAGE_BYTES + 12)


def written(path: Path, header: bytes, num_bytes: int) -> bool:
    """Write a file of random numbers; whether it is what it must be."""
    with mmap.mmap(-1, max(num_bytes, 1)) as memory:
        memory[:num_bytes] = os.urandom(num_bytes)
        with memoryview(memory) as whole, whole[:num_bytes] as numbers:
            write_through(path, header, numbers)
        return path.read_bytes() == header + memory[:num_bytes]


@pytest.mark.parametrize("num_bytes", LENGTHS)
@pytest.mark.parametrize("header_length", [PAGE_BYTES, 3 * PAGE_BYTES, 100, PAGE_BYTES + 8])
def test_every_length_is_written_whole(tmp_path: Path, num_bytes: int, header_length: int) -> None:
    assert written(tmp_path / "file", os.urandom(header_length), num_bytes)


def test_the_numbers_of_a_shard_begin_at_a_border_of_pages() -> None:
    for count in (0, 1, 50, 500):
        assert len(header_bytes((f"name-{number}", (3,)) for number in range(count))) % PAGE_BYTES == 0


def refuse_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def opened(path: Any, flags: int, *args: Any) -> int:
        descriptor = real(path, flags & ~os.O_DIRECT, *args)
        if flags & os.O_DIRECT:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return descriptor

    monkeypatch.setattr(direct.os, "open", opened)


def refuse_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def wrote(descriptor: int, block: memoryview) -> int:
        if direct.is_direct(descriptor):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, block)

    monkeypatch.setattr(direct.os, "write", wrote)


def take_less_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(direct.os, "write", lambda descriptor, block: real(descriptor, block[:4100]))


@pytest.mark.parametrize("fault", [refuse_to_open, refuse_to_write, take_less_than_asked])
def test_a_file_system_with_another_mind_gets_plain_writes(
    fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    assert written(tmp_path / "file", os.urandom(PAGE_BYTES), 10 * PAGE_BYTES + 4)


def test_any_other_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        written(tmp_path / "missing" / "file", b"", 4)
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError):
        written(tmp_path / "there", b"", 4)


@pytest.mark.parametrize("room", [0, 100, PAGE_BYTES, WRITE_BLOCK_BYTES, WRITE_BLOCK_BYTES + 100])
def test_a_disk_that_has_no_more_room_says_so_wherever_it_ends(tmp_path: Path, room: int) -> None:
    numbers = memoryview(mmap.mmap(-1, 2 * WRITE_BLOCK_BYTES))
    with no_file_longer_than(room), pytest.raises(OSError, match="File too large"):
        write_through(tmp_path / "file", os.urandom(PAGE_BYTES), numbers)
    assert (tmp_path / "file").stat().st_size == room

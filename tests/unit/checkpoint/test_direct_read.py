"""A file read past the page cache is the bytes that it holds, on file systems that know how and on those that do not."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoint.disk import direct
from pretrain.checkpoint.disk.direct import PAGE_BYTES, READ_BLOCK_BYTES, is_direct, read_past_cache

LENGTHS = (
    0,
    1,
    PAGE_BYTES - 1,
    PAGE_BYTES,
    READ_BLOCK_BYTES,
    READ_BLOCK_BYTES + 5,
    2 * READ_BLOCK_BYTES + PAGE_BYTES + 3,
)


def made(folder: Path, num_bytes: int) -> tuple[Path, bytes]:
    """A file of random bytes."""
    content = os.urandom(num_bytes)
    (folder / "file").write_bytes(content)
    return folder / "file", content


@pytest.mark.parametrize("num_bytes", LENGTHS)
def test_every_length_is_read_whole_and_in_order(tmp_path: Path, num_bytes: int) -> None:
    path, content = made(tmp_path, num_bytes)
    assert b"".join(bytes(block) for block in read_past_cache(path)) == content


def refuse_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    real = direct.fcntl.fcntl

    def asked(descriptor: int, act: int, flags: int = 0) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, act, flags)

    monkeypatch.setattr(direct.fcntl, "fcntl", asked)


def refuse_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def read(descriptor: int, blocks: list[memoryview], place: int) -> int:
        if is_direct(descriptor):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, blocks, place)

    monkeypatch.setattr(direct.os, "preadv", read)


def read_little(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def read(descriptor: int, blocks: list[memoryview], place: int) -> int:
        return real(descriptor, [blocks[0][: 300 * PAGE_BYTES + 1 - is_direct(descriptor)]], place)

    monkeypatch.setattr(direct.os, "preadv", read)


@pytest.mark.parametrize("disturb", [refuse_the_flag, refuse_to_read, read_little])
def test_a_file_system_with_other_ways_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disturb: Any
) -> None:
    path, content = made(tmp_path, LENGTHS[-1])
    disturb(monkeypatch)
    assert b"".join(bytes(block) for block in read_past_cache(path)) == content


def test_an_error_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = made(tmp_path, LENGTHS[-1])
    real = os.preadv

    def read(descriptor: int, blocks: list[memoryview], place: int) -> int:
        if place >= READ_BLOCK_BYTES:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, blocks, place)

    monkeypatch.setattr(direct.os, "preadv", read)
    with pytest.raises(OSError, match="Input/output error"):
        for _ in read_past_cache(path):
            pass


def test_links_are_not_followed(tmp_path: Path) -> None:
    path, _ = made(tmp_path, 1)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="link"):
        next(read_past_cache(tmp_path / "link"))


def test_nothing_is_left_open_by_a_reader_that_gives_up(tmp_path: Path) -> None:
    path, _ = made(tmp_path, LENGTHS[-1])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        blocks = read_past_cache(path)
        next(blocks)
        del blocks
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

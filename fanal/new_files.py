"""New files, and files that grow, in a folder that others may write to: what is written reaches the file of this name and no other.

A colleague who may write into a folder may put a link there under a name that we will write. It would carry our bytes, with our
rights, into a file that he may not write: a private key, another run. So no link is followed in the last part of a path. Folders
above it are the caller's affair: a run folder may be a link.
"""

import errno
import io
import os
import stat
from pathlib import Path
from typing import IO, BinaryIO


def create_file(path: Path, *, mode: int = 0o666, buffering: int = -1) -> BinaryIO:
    """Open a new file for writing. What had its name, a link too, is removed; what a link leads to stays as it is.

    Args: mode: its bits of permission, of which umask takes some away; buffering: as ``open`` takes it.
    Raises: OSError; also if somebody makes such a file in the same moment.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb", buffering
    )  # O_EXCL: through no link


def write_new(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Write a file as ``create_file`` makes it. For names that nobody reads before all is there. It is not yet synced."""
    with create_file(path, mode=mode) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


def open_to_append(path: Path) -> io.FileIO:
    """Open a file, made if it is not there, for reading and for writing at its end; without a buffer.

    Raises: OSError; ELOOP, in words, if a link, a device or a pipe has its name. A hard link is a file like another: Linux lets
    nobody make one to a file that he may not write (fs.protected_hardlinks).
    """
    return io.FileIO(path, "ab+", opener=lambda _, flags: _open(path))


def open_to_lock(path: Path) -> io.FileIO:
    """Open a file, made if it is not there, to hold it locked: as ``open_to_append``.

    Who may read a file may lock it (flock), so those who may not write to it may not read it either.
    Raises: as ``open_to_append``.
    """
    stream = io.FileIO(path, "ab+", opener=lambda _, flags: _open(path, mode=0o622))
    found = os.fstat(stream.fileno())
    mode = stat.S_IMODE(found.st_mode)
    readers = (mode & 0o022) << 1
    if found.st_uid == os.geteuid() and mode & 0o044 != readers:
        os.fchmod(stream.fileno(), mode & ~0o044 | readers)
    return stream


def ends_inside_a_line(stream: IO[bytes]) -> bool:
    """Whether the last line lacks its end, as a power cut may leave it: what is appended to it would be lost with it."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - 1))
    return stream.read(1) not in (b"", b"\n")


def append(stream: io.FileIO, content: bytes) -> None:
    """Write all of this to a stream without a buffer. Raises: OSError where a disk that fills up takes a part of it."""
    while content:
        content = content[stream.write(content) :]


def _open(path: Path, *, mode: int = 0o666) -> int:
    # Not blocking, where it is a pipe that nobody reads.
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = _open_or_make(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise _refused(path, f"it is a link to {path.readlink()}") from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _refused(path, "it is not a file")


def _open_or_make(path: Path, flags: int, mode: int) -> int:
    """Open a file, or make it: in two calls, since Linux refuses O_CREAT for a colleague's file in a folder with the sticky bit."""
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            try:
                return os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
            except FileExistsError:
                continue  # made by another process just now


def _refused(path: Path, what: str) -> OSError:
    return OSError(errno.ELOOP, f"{what}, and nothing is written through it: remove {path.name}", str(path))

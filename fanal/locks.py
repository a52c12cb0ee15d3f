"""Advisory locks (flock): one process at a time writes a thing. A lock ends with its process, however that ends."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of a file system without locks, such as Lustre mounted without them."""
BUSY = {errno.EAGAIN, errno.EACCES}


def take_lock(descriptor: int, *, without: Callable[[OSError], None] = lambda error: None) -> bool:
    """Take the exclusive lock of an open file or folder; False if another process holds it. Does not wait.

    Args: without: told the error of a file system that has no locks; nothing keeps a second process out there, so it counts as
        taken.
    Raises: OSError of a file system that fails.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            without(error)
            return True
        if error.errno in BUSY:
            return False
        raise
    return True


def take_lock_by_name(path: Path, descriptor: int) -> bool:
    """Take the lock of what was opened as ``path``; False also if it has another name, or none, since.

    Its owner may have removed or renamed it between our open and our lock: then the lock is of something that is no more.
    """
    if not take_lock(descriptor):
        return False
    try:
        there, held = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

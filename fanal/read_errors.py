"""Errors of the operating system while a file is read: which file it was, and whether another try may go better."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

MAY_PASS = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ESHUTDOWN, errno.ENOTCONN, errno.ECONNRESET, errno.EREMOTEIO,
        errno.ENOMEM, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
"""Of a disk or a file system that fails, and of a node that is short of something: nothing that a user gave is wrong."""
MARK = "made_of_what_may_pass"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path into an OSError: open does so by itself, but a read that fails knows no name."""
    try:
        yield
    except OSError as problem:
        if problem.filename is None:
            problem.filename = str(path)
        raise


def passing_cause(error: BaseException) -> BaseException | None:
    """What another try, perhaps on another node, may not meet, among the error and all that it was made of; else None.

    Readers make ValueErrors of OSErrors, in words for people: the kind of an error alone does not say whether input is wrong.
    """
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        if (
            isinstance(link, MemoryError)
            or (isinstance(link, OSError) and link.errno in MAY_PASS)
            or hasattr(link, MARK)
        ):
            return link
        seen.add(id(link))
        links += [link.__cause__, link.__context__]
    return None


def mark_for_pickling(error: BaseException) -> None:
    """Let `passing_cause` know the error again behind a pickle, which leaves out what an error was made of."""
    if passing_cause(error):
        setattr(error, MARK, True)

"""Errors by type: what a person did wrong, bytes that are damaged, trouble that may pass. All else is a crash.

The type says how the process ends (``exit_code``), and that the message is all there is to say: one line, no traceback. It is
raised where the input is judged. An error of any other type is a bug or a surprise, whatever its words and wherever it was
raised: a traceback, and CRASH.
"""

import errno
import traceback
from collections.abc import Callable
from typing import ClassVar

from fanal.exit_codes import CRASH, DAMAGED, WRONG_INPUT


class FanalError(Exception):
    """An error whose message says all there is to say."""

    exit_code: ClassVar[int]


class UserError(FanalError, ValueError):
    """The input is wrong: an argument, a config, a file that a person gave. Starting again does not help.

    The message gives the name, the value, the rule and a value that works.
    """

    exit_code = WRONG_INPUT


class DamageError(FanalError, ValueError):
    """Bytes are not those that were written. Starting again reads the same bytes."""

    exit_code = DAMAGED


class PassingError(FanalError):
    """A disk, a network or a node that fails now and may work at the next start. Nothing that a person gave is wrong."""

    exit_code = CRASH


MAY_PASS = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ESHUTDOWN, errno.ENOTCONN, errno.ECONNRESET, errno.EREMOTEIO,
        errno.ENOMEM, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
"""Errors of a disk or a file system that fails, and of a node that is short of something."""


def may_pass(error: BaseException) -> bool:
    """Whether another try, perhaps on another node, may not meet this error of a library or the operating system."""
    return isinstance(error, MemoryError | PassingError) or (isinstance(error, OSError) and error.errno in MAY_PASS)


def error_type(error: BaseException, lasting: type[FanalError] = UserError) -> type[FanalError]:
    """The type for the error in words that we make of one of the system's: ``raise error_type(problem)(f"{path} ...")``."""
    return PassingError if may_pass(error) else lasting


def exit_code_of(error: BaseException) -> int:
    """How a process ends that meets this error."""
    return error.exit_code if isinstance(error, FanalError) else CRASH


def run_guarded(act: Callable[[], int], say: Callable[[str], None]) -> int:
    """Run a command's ``act``; returns the exit code. An error is said in one line if its type says so, else with its traceback."""
    try:
        return act()
    except FanalError as error:
        say(f"error: {error}")
        return error.exit_code
    except Exception:
        say(traceback.format_exc())
        return CRASH

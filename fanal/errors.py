"""Errors by type: wrong input of a user, damaged bytes, trouble that may pass. All else is a crash.

The type says how the process ends (``exit_code``), and that the message is all there is to say: one line, no traceback. It is
raised where the input is judged. An error of any other type is a bug or a surprise, whatever its words and wherever it was
raised: a traceback, and CRASH, or HARDWARE where a driver says that its device failed.
"""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from fanal.exit_codes import CRASH, DAMAGED, HARDWARE, OUTPUT_CLOSED, WRONG_INPUT
from fanal.shown import on_one_line


class FanalError(Exception):
    """An error whose message says all there is to say."""

    exit_code: ClassVar[int]


class UserError(FanalError, ValueError):
    """The input is wrong: an argument, a config, a file that a user gave. Starting again does not help.

    The message gives the name, the value, the rule and a value that works.
    """

    exit_code = WRONG_INPUT


class DamageError(FanalError, ValueError):
    """Bytes are not those that were written. Starting again reads the same bytes."""

    exit_code = DAMAGED


class PassingError(FanalError):
    """A disk, a network or a node that fails now and may work at the next start. Nothing that a user gave is wrong."""

    exit_code = CRASH


class OutputError(FanalError):
    """Standard output takes no more, as on a full disk."""

    exit_code = WRONG_INPUT


class OutputClosedError(OutputError):
    """Nobody reads standard output any more, which is all that need be said. The quiet end of Unix tools."""

    exit_code = OUTPUT_CLOSED


MAY_PASS = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ESHUTDOWN, errno.ENOTCONN, errno.ECONNRESET, errno.EREMOTEIO,
        errno.ENOMEM, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
"""Errors of a disk or a file system that fails, and of a node that is short of something."""
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a disk without room, or of a user whose quota is used up."""
WRONG_PATH = frozenset({errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP})
"""Errors of a path that no file system takes, or that this user may not use."""

HARDWARE_WORDS = (
    "uncorrectable ECC error encountered",  # cudaErrorECCUncorrectable, hipErrorECCNotCorrectable
    "uncorrectable NVLink error detected during the execution",  # cudaErrorNvlinkUncorrectable
    "hardware stack error",  # cudaErrorHardwareStackError
)
"""Words of a GPU's driver for a device that failed and that no program is the cause of; PyTorch raises them as a RuntimeError.
From CUDA's list of errors; not yet run on a GPU."""


def is_hardware(error: BaseException) -> bool:
    """Whether an error says that the device of this process failed, so that another node would do."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in HARDWARE_WORDS)


def may_pass(error: BaseException) -> bool:
    """Whether another try, perhaps on another node, may not meet this error of a library or the operating system."""
    return isinstance(error, MemoryError | PassingError) or (isinstance(error, OSError) and error.errno in MAY_PASS)


def error_type(error: BaseException, lasting: type[FanalError] = UserError) -> type[FanalError]:
    """Return the type of our error in place of one of the system's: ``raise error_type(problem)(f"{path} ...")``."""
    return PassingError if may_pass(error) else lasting


def full_disk(error: BaseException | None, *, log: Path) -> PassingError | None:
    """Return our error in place of one of FULL_DISK, wherever a run met it; None for any other. Args: log: has the traceback."""
    if not isinstance(error, OSError) or error.errno not in FULL_DISK:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return PassingError(f"{where}{error.strerror}; start again when there is room. Where it was met: {log}")


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a process that ends with this error."""
    if isinstance(error, FanalError):
        return error.exit_code
    return HARDWARE if is_hardware(error) else CRASH


@contextlib.contextmanager
def user_path(*paths: str | Path) -> Iterator[None]:
    """Turn an error of WRONG_PATH about a path that a user gave into a UserError. For the place that looks at the path first.

    An error is about a path if it names the path itself, a file inside it, one whose name begins with it (PREFIX.bin), or a
    folder above it. Every other OSError is left as it is: that a library may not use /dev/shm is not a mistake in the input.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in WRONG_PATH or not any(_is_about(error, path) for path in paths):
            raise
        whose = f"user {os.geteuid()}" if error.errno in (errno.EACCES, errno.EPERM) else "the file system"
        raise UserError(
            f"{os.fsdecode(error.filename)!r} must be a path that {whose} may use: {error.strerror}; the path of a folder of your "
            "own works"
        ) from None


def _is_about(error: OSError, path: str | Path) -> bool:
    if not isinstance(error.filename, str | bytes):
        return False
    found, given = str(Path(os.fsdecode(error.filename)).absolute()), str(Path(path).absolute())
    return found.startswith((given, os.path.realpath(path))) or given.startswith(found.rstrip("/") + "/")


def run_guarded(
    act: Callable[[], int],
    *,
    speaks: Callable[[], bool] = lambda: True,
    then: Callable[[Exception], object] = lambda _: None,
) -> int:
    """Run a command's ``act`` and return the exit code. This is the one policy of all commands and processes.

    A FanalError is one line on standard error, and its own exit code. Any other error is a traceback, and CRASH or HARDWARE.

    Args: speaks: whether this process says the one line, where others of the same command say it too; then: called with the
    error after it was printed.
    """
    try:
        return act()
    except OutputError:
        raise  # whoever gave the process its output says so (fanal/output.py)
    except FanalError as error:
        if speaks():
            print(f"error: {on_one_line(str(error))}", file=sys.stderr, flush=True)
        then(error)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        then(error)
        return exit_code_of(error)

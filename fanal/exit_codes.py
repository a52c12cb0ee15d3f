"""How the process ends is an interface: launch scripts decide by it."""

import errno
import os
import types
from typing import Final

from fanal.read_errors import passing_cause

FINISHED: Final = 0
DIFFERENT: Final = 1
"""``pretrain prove`` found a difference. No training run ends with it."""
WRONG_INPUT: Final = 2
"""The user's input is wrong; starting again will not help."""
CRASH: Final = 70
STOPPED: Final = 75
"""Stopped on request with a checkpoint saved; start again to go on."""
DAMAGED: Final = 76
"""Data or a checkpoint failed verification; starting again reads the same bytes. Errors say so with ``is_damage``."""
HANG: Final = 77
"""A rank was cut off by its watchdog; starting again may help, a limited number of times."""

OF_A_RUN: Final = (FINISHED, WRONG_INPUT, CRASH, STOPPED, DAMAGED, HANG)
"""With one of these a run ends that came as far as our code."""

OUR_PACKAGES = frozenset({"fanal", "pretrain", "tokenizer", "kernels", "launch"})


def exit_code_of(error: BaseException) -> int:
    """WRONG_INPUT for a ValueError that one of our rooms raised: those are written for people. DAMAGED if it says that bytes
    are not what they were. WRONG_INPUT also for a path that no file system takes, or that this user may not use. Else CRASH.

    A ValueError from inside a library is a crash: it says nothing about the user's input. So is one that we made of an error of
    the disk, the network or a node that is short of something: started again, perhaps elsewhere, a run may not meet it.
    """
    if _is_wrong_path(error):
        return WRONG_INPUT
    if not _is_ours(error):
        return CRASH
    if getattr(error, "is_damage", False):
        return DAMAGED
    return CRASH if passing_cause(error) else WRONG_INPUT


def is_for_people(error: BaseException) -> bool:
    """Whether ``message_of`` says all that there is to say; of any other error a traceback says more."""
    return _is_wrong_path(error) or _is_ours(error)


def message_of(error: BaseException) -> str:
    """What a person is told of an error that is for people."""
    if isinstance(error, OSError) and _is_wrong_path(error):
        whose = f"user {os.geteuid()}" if error.errno in (errno.EACCES, errno.EPERM) else "the file system"
        return f"{error.filename!r} must be a path that {whose} may use: {error.strerror}; the path of a folder of your own works"
    return str(error)


def _is_wrong_path(error: BaseException) -> bool:
    return (
        isinstance(error, OSError)
        and error.filename is not None
        and error.errno in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP)
    )


def _is_ours(error: BaseException) -> bool:
    is_value_error = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    return is_value_error and _raised_by_us(error.__traceback__)


def _raised_by_us(traceback: types.TracebackType | None) -> bool:
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    package = traceback.tb_frame.f_globals.get("__package__") or ""
    return package.split(".")[0] in OUR_PACKAGES

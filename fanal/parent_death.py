"""Processes that do not outlive the one that started them, however that one ends."""

import ctypes

SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def follow_parent(number: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends.

    A parent that has ended before sends nothing: compare os.getppid() with the one that you expect, after this.
    """
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, number)

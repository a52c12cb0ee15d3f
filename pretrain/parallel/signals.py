"""Signals that ask a run to stop. Noted from a process's first moment on, acted on between steps. Imports nothing heavy.

A handler only notes: a step that is cut in two leaves nothing that could be saved. ``pretrain/train/stop.py`` asks.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
AGAIN_S = 1.0
"""A second SIGINT ends the process at once if it comes later than this: torchrun passes on a Ctrl-C that the terminal has
sent to its ranks already, and that one comes within milliseconds."""

_noted: dict[signal.Signals, float] = {}
"""Time at which each stop signal came first, in the order in which they came."""


def catch_stop_signals(*, restart_system_calls: bool = False) -> None:
    """Note stop signals in this process from now on; those that were held back arrive now. Main thread only.

    Args: restart_system_calls, for processes whose C++ libraries take an interrupted call for a failure.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, note_stop_signal)
        signal.siginterrupt(number, not restart_system_calls)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def ignore_stop_signals() -> None:
    """Ignore stop signals while a process ends whose exit code is decided: Python removes its handlers before it is gone."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def hold_back_stop_signals() -> Iterator[None]:
    """Hold back stop signals while the block runs. Processes that it starts are born so, and stay so until they catch them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_signal() -> signal.Signals | None:
    """Return the first stop signal that came to this process; None if none did."""
    return next(iter(_noted), None)


def stop_signal_comes_within(seconds: float) -> bool:
    """Wait for a stop signal; return whether one came, at once if one has."""
    give_up_at = time.monotonic() + seconds
    while stop_signal() is None and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return stop_signal() is not None


def note_stop_signal(number: int, frame: FrameType | None) -> None:
    """Note a stop signal, as its handler. A second SIGINT does what a SIGINT usually does."""
    now = time.monotonic()
    is_again = number == signal.SIGINT and now - _noted.get(signal.SIGINT, now) > AGAIN_S
    _noted.setdefault(signal.Signals(number), now)
    if is_again:
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\x1b[?25h")  # the cursor, which a progress bar hides
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)

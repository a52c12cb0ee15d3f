"""A limit on the time that a block of code takes, also inside the search of a regular expression, which asks for signals."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class OutOfTimeError(Exception):
    """The time is over."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop the block after so many seconds. The main thread alone gets signals. A timer that was set before goes on behind it.

    Raises: OutOfTimeError.
    """
    assert threading.current_thread() is threading.main_thread(), "signals reach the main thread alone"

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise OutOfTimeError

    handler = signal.signal(signal.SIGALRM, stop)
    started = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, left - (time.monotonic() - started)), interval)

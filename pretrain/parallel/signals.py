"""Signals that ask a run to stop. Noted from a process's first moment on, acted on between steps. Imports nothing heavy.

A handler only notes: a step that is cut in two leaves nothing that could be saved. ``pretrain/train/stop.py`` asks.

Python runs a handler when the main thread comes back from C, which takes an hour where a rank waits for its peers. So a thread
hears of each signal as well, by the byte that the interpreter writes for it at once (``signal.set_wakeup_fd``): it notes the
signal, and ends the process after a second Ctrl-C whatever the main thread is at.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from fanal.exit_codes import INTERRUPTED
from pretrain.parallel.environment import note_exit_code, started_by_launcher

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
AGAIN_S = 1.0
"""A second SIGINT ends the process at once if it comes later than this: torchrun passes on a Ctrl-C that the terminal has
sent to its ranks already, and that one comes within milliseconds."""
LAST_WORD_S = 0.5
"""Seconds that the main thread has to end the process itself after a second SIGINT."""
LAST_WORD_OF_RANKS_S = 10.0
"""The same where the main thread waits for ranks, which were interrupted as well."""

_noted: dict[signal.Signals, float] = {}
"""Time at which each stop signal came first, in the order in which they came."""


class _Ear:
    """The end of the pipe at which this process hears of its signals."""

    def __init__(self, last_word_s: float) -> None:
        """Args: last_word_s: seconds from a second SIGINT to the end of the process. Main thread only."""
        self.owner, self._last_word_s = os.getpid(), last_word_s
        self._pipe, writer = os.pipe()
        self._lock = threading.RLock()  # a handler runs inside another one
        self.is_interrupted = False
        self.exit_code: int | None = None
        """Exit code that the process has decided on; nothing changes it."""
        for end in (self._pipe, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="stop signals", daemon=True).start()

    def take(self) -> None:
        """Note what has come. A second SIGINT is one by the bytes: the handler may run long after the signal."""
        with self._lock, contextlib.suppress(BlockingIOError):
            for number in os.read(self._pipe, 512):
                self.note(number)

    def note(self, number: int) -> None:
        """Note a signal that has come just now."""
        if number in STOP_SIGNALS:
            now = time.monotonic()
            first = _noted.setdefault(signal.Signals(number), now)
            self.is_interrupted |= number == signal.SIGINT and now - first > AGAIN_S

    def _listen(self) -> None:
        poller = select.poll()
        poller.register(self._pipe, select.POLLIN)
        while not self.is_interrupted:
            poller.poll()
            self.take()
        if self.exit_code is None:
            time.sleep(self._last_word_s)
        _end_at_once(INTERRUPTED if self.exit_code is None else self.exit_code)


_ear: _Ear | None = None


def catch_stop_signals(*, restart_system_calls: bool = False, last_word_s: float = LAST_WORD_S) -> None:
    """Note stop signals in this process from now on; those that were held back arrive now. Main thread only.

    A closed terminal ends nothing from now on (SIGHUP), here and in the processes that this one starts.

    Args:
        restart_system_calls: for processes whose C++ libraries take an interrupted call for a failure.
        last_word_s: seconds that the main thread has to end the process after a second SIGINT.
    """
    global _ear
    if _ear is None or _ear.owner != os.getpid():
        _ear = _Ear(last_word_s)
    for number in STOP_SIGNALS:
        signal.signal(number, note_stop_signal)
        signal.siginterrupt(number, not restart_system_calls)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def ignore_stop_signals() -> None:
    """Ignore stop signals while a process ends whose exit code is decided: Python removes its handlers before it is gone."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def keep_exit_code(code: int) -> None:
    """Note the exit code that this process has decided on: a second SIGINT still ends it at once, but with this code."""
    if _ear is not None:
        _ear.exit_code = code


def keeps_exit_code() -> bool:
    """Return whether this process has decided on its exit code."""
    return _ear is not None and _ear.exit_code is not None


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


def stop_signal_is_older_than(seconds: float) -> bool:
    """Return whether a stop signal came at least this long ago."""
    return bool(_noted) and time.monotonic() - min(_noted.values()) >= seconds


def stop_signal_comes_within(seconds: float) -> bool:
    """Wait for a stop signal; return whether one came, at once if one has."""
    give_up_at = time.monotonic() + seconds
    while stop_signal() is None and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return stop_signal() is not None


def note_stop_signal(number: int, frame: FrameType | None) -> None:
    """Note a stop signal, as its handler. A second SIGINT does what a SIGINT usually does."""
    if note_for_ranks(number):
        if _ear is not None and _ear.exit_code is not None:
            _end_at_once(_ear.exit_code)
        end_as_interrupted()


def note_for_ranks(number: int) -> bool:
    """Note a stop signal where the main thread waits for ranks; return whether it is a second SIGINT. It ends nothing yet."""
    if _ear is None or _ear.owner != os.getpid():
        now = time.monotonic()
        return number == signal.SIGINT and now - _noted.setdefault(signal.Signals(number), now) > AGAIN_S
    _ear.take()
    _noted.setdefault(signal.Signals(number), time.monotonic())
    return _ear.is_interrupted


def is_interrupted() -> bool:
    """Return whether a second SIGINT came to this process."""
    return _ear is not None and _ear.is_interrupted


def end_as_interrupted() -> None:
    """End the process by SIGINT, so that a shell knows and ends its loop as well. Main thread only."""
    _before_the_end(INTERRUPTED)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _end_at_once(code: int) -> None:
    _before_the_end(code)
    os._exit(code)


def _before_the_end(code: int) -> None:
    """Leave the exit code for the launcher, and show the cursor, which a progress bar hides."""
    if started_by_launcher():
        note_exit_code(code)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\x1b[?25h")

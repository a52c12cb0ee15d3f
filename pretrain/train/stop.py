"""Stop on request: a signal to any rank stops all ranks after the same step, with a checkpoint."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignal:
    """Remembers that a signal came; the loop asks between steps."""

    def __init__(self) -> None:
        self._seen = False

    @property
    def is_asked(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._seen

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen = True


@contextlib.contextmanager
def open_stop_signal() -> Iterator[StopSignal]:
    """Catch the stop signals while the block runs."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop._note) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

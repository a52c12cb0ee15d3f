"""Progress of a long command: a bar on a terminal, a line each minute in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from fanal.console import Bar, Console

LINE_INTERVAL_S = 60.0


class Progress:
    """Display of bytes done of bytes in all, with speed and time left; written to stderr."""

    def __init__(self, title: str, total_bytes: int) -> None:
        self._title, self._total_bytes = title, total_bytes
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            # No thread of its own: workers are forked while it is shown.
            self._bar = Bar(*columns, console=console, auto_refresh=False)
            self._task = self._bar.add_task(title, total=total_bytes)

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def update(self, done_bytes: int) -> None:
        """Show the bytes done, at most as often as anybody can read it."""
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=done_bytes, refresh=now - self._last_line > 0.2)
            self._last_line = now if now - self._last_line > 0.2 else self._last_line
        elif now - self._last_line > LINE_INTERVAL_S:
            self._last_line = now
            speed = done_bytes / (now - self._started)
            left_s = round((self._total_bytes - done_bytes) / speed) if speed else 0
            print(
                f"{self._title}: {done_bytes / 1e6:,.0f} of {self._total_bytes / 1e6:,.0f} MB, {speed / 1e6:.1f} MB/s, "
                f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            if kind is None:
                self._bar.update(self._task, completed=self._total_bytes, refresh=True)
            self._bar.stop()

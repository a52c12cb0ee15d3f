"""A sink that works in a thread of its own, beside training: for libraries that may be slow, full, offline or broken."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from pretrain.log.history import Past
from pretrain.log.scalars import Record

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Records that may wait for the thread; those that come when so many wait are left out, and counted."""
CLOSE_S = 30.0
"""Seconds that the end of a run waits for the thread, at most."""


class Store(Protocol):
    """Where the thread puts records. Each method may raise any exception, after which it is asked for nothing more."""

    def take(self, past: Past) -> None: ...

    def farewell(self) -> str:
        """Return a line for the end of the run: where the figures are, and what to do with them."""
        ...


class Beside:
    """Hands records to a store in a thread. What fails there is named once, and neither stops nor delays training."""

    def __init__(self, name: str, open_store: Callable[[], AbstractContextManager[Store]]) -> None:
        self.lost = f"{name} takes no more records"
        self._name, self._open_store = name, open_store
        self._waiting = queue.Queue[Past | None](MOST_WAITING)
        self._left_out, self._taken, self._is_broken = 0, 0, False
        self._write_s = self._thread_s = 0.0
        self._farewell = ""
        self._thread = threading.Thread(target=self._work, name=f"sink {name}", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        """Leave a record to the thread; costs microseconds."""
        began = time.perf_counter()
        if not self._is_broken:
            try:
                self._waiting.put_nowait(Past(record, time.time()))
            except queue.Full:
                self._left_out += 1
                if self._left_out == 1:
                    logger.warning("%s is slower than training: records are left out until it is not", self._name)
        self._write_s += time.perf_counter() - began

    def say(self, message: str) -> None: ...

    def step_done(self, step: int) -> None: ...

    def close(self) -> str:
        """Wait for the thread, CLOSE_S at most; return a line about what it did."""
        began, until = time.perf_counter(), time.monotonic() + CLOSE_S
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=CLOSE_S)
        self._thread.join(max(0.0, until - time.monotonic()))
        waited = time.perf_counter() - began
        if self._thread.is_alive():
            return f"{self._name}: not finished after {CLOSE_S:g} s, and left behind; metrics.jsonl has every figure"
        left_out = f", {self._left_out} left out" if self._left_out else ""
        return (
            f"{self._name}: {self._taken} records{left_out}; {self._write_s:.4f} s of training's time, {self._thread_s:.2f} s "
            f"of a thread beside it, {waited:.2f} s at the end{self._farewell}"
        )

    def _work(self) -> None:
        try:
            with self._open_store() as store:
                while (past := self._waiting.get()) is not None:
                    store.take(past)
                    self._taken += 1
                self._farewell = f"; {store.farewell()}"
        except (Exception, SystemExit) as error:  # of libraries, which raise anything
            self._is_broken = True
            first_line = (str(error).splitlines() or [""])[0]
            logger.warning("%s, and training continues: %s: %s", self.lost, type(error).__name__, first_line)
        finally:
            self._thread_s = time.thread_time()


@contextlib.contextmanager
def beside_training(name: str, open_store: Callable[[], AbstractContextManager[Store]]) -> Iterator[Beside]:
    """Yield a sink; at the end of the run its last line is printed, and the store closed."""
    sink = Beside(name, open_store)
    try:
        yield sink
    finally:
        line = sink.close()
        with contextlib.suppress(OSError):  # standard output on a full disk
            print(line, flush=True)

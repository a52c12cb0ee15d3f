"""Run an iterator ahead of its consumer in a thread, within a budget of memory."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

CLOSE_TIMEOUT_S = 10
"""A read that a dead file system never answers must not keep the process: its thread is left behind."""
REST_S = 0.002
"""How long the thread stands back once the consumer has come. One that comes again so soon waits for nothing but this iterator, and
two threads that wait for the interpreter's lock in turns make items more slowly than one."""


class Prefetcher(Generic[Item]):
    """An iterator over the same items in the same order, made in a thread while the consumer is busy.

        with Prefetcher(batches, item_bytes=65_536, budget_bytes=1 << 28) as ahead:
            for batch in ahead: ...

    A consumer that finds nothing made makes the next item itself, unless the thread is making it: one of them does at a time.
    At most ``budget_bytes // item_bytes`` items exist that the consumer does not have yet, the one being made included. If
    the budget holds no item, there is no thread, and each item is made when it is asked for. What the iterator raises is
    raised in the consumer, after the items before it, with the traceback of where it happened.
    """

    def __init__(
        self,
        items: Iterator[Item],
        *,
        item_bytes: int,
        budget_bytes: int,
        prepare_thread: Callable[[], None] | None = None,
    ) -> None:
        """``prepare_thread`` is called in the thread, first; the consumer's own needs nothing of it."""
        self._items = items
        self._prepare_thread = prepare_thread
        self._capacity = budget_bytes // item_bytes
        self._made: deque[Item] = deque()
        self._changed = threading.Condition()
        self._making = threading.Lock()
        self._came_at = time.monotonic()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._thread: threading.Thread | None = None
        if self._capacity > 0:
            self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
            self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        if self._closed:
            raise StopIteration
        if self._thread is None:
            return next(self._items)
        self._came_at = time.monotonic()
        if self._made:
            return self._take()
        with self._making:
            if self._made:
                return self._take()
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopIteration
            try:
                return next(self._items)
            except StopIteration:
                raise
            except BaseException as error:
                self._error = error
                raise
            finally:
                self._came_at = time.monotonic()

    def close(self) -> None:
        """Stop the thread and drop what it made; waits for the item that is being made. Twice does no harm."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
        self._made.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            if self._prepare_thread is not None:
                self._prepare_thread()
            while self._wait_for_room():
                with self._making:
                    if self._error is not None or not self._make():
                        break
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True

    def _make(self) -> bool:
        """Make an item in the thread; False at the end."""
        try:
            item = next(self._items, _END)
        except BaseException as error:
            self._error = error  # before the lock is given back: the consumer may wait for it
            return False
        self._ended = item is _END
        if not self._ended:
            self._made.append(item)  # type: ignore[arg-type]
        return not self._ended

    def _wait_for_room(self) -> bool:
        """Block until another item may be made in the thread; False if none is wanted any more."""
        with self._changed:
            while not self._closed:
                rest_s = self._came_at + REST_S - time.monotonic()
                if rest_s <= 0 and len(self._made) < self._capacity:
                    return True
                self._changed.wait(rest_s if rest_s > 0 else None)
            return False

    def _take(self) -> Item:
        with self._changed:
            item = self._made.popleft()
            self._changed.notify_all()
            return item


_END = object()

"""Worker processes that do one function for many inputs, and are watched: one that dies ends the run at once.

Each worker has a pipe of its own and shares no lock with anybody, so that a kill at any moment leaves nothing behind that another
process waits for. (In a concurrent.futures pool all workers share two pipes and their locks: before Python 3.11.5 a worker that was
killed while the queue was full, or that held a lock, hung the pool for ever.)
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from fanal.errors import FanalError, PassingError
from fanal.parent_death import follow_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_AT_A_TIME = 2
"""Tasks of a worker at most: one in work, and one more so that it does not wait for the next."""
END_S = 5.0
"""Seconds for a killed worker to be gone. One that waits for a disk takes longer: it goes when the disk answers."""


def in_order(work: Callable[[Task], Result], tasks: Iterable[Task], *, num_workers: int) -> Iterator[Result]:
    """Yield ``work(task)`` for each task, in the order of the tasks, from forked processes that end with the iterator.

    At most two tasks per worker are anywhere between ``tasks`` and the caller.
    Raises: what ``work`` raised for the first task for which it did; PassingError if a worker died or none can be started.
    """
    pool: _Pool[Task, Result] = _Pool(work)
    try:
        pool.start(num_workers)
        for task in tasks:
            pool.ask(task)
            if pool.num_pending == TASKS_AT_A_TIME * num_workers:
                yield pool.next_result()
        while pool.num_pending:
            yield pool.next_result()
    finally:
        pool.end()


class _Pool(Generic[Task, Result]):
    """Some workers, and what is under way between them and this process."""

    def __init__(self, work: Callable[[Task], Result]) -> None:
        self._work = work
        self._workers: list[_Worker] = []
        self._replies: dict[int, bytes] = {}  # that came before their turn
        self._num_asked = self._num_taken = 0

    @property
    def num_pending(self) -> int:
        return self._num_asked - self._num_taken

    def start(self, num_workers: int) -> None:
        try:
            for _ in range(num_workers):
                self._workers.append(_Worker(self._work, [worker.pipe for worker in self._workers]))
        except OSError as error:
            raise PassingError(
                f"worker process {len(self._workers) + 1} of {num_workers} cannot be started: {error.strerror}; "
                "--workers 1 needs none"
            ) from None

    def ask(self, task: Task) -> None:
        """Hand a task to a worker. Waits as long as the transfer takes: a worker always reads, whatever else it does."""
        self._receive(wait_s=0)
        worker = min(self._workers, key=lambda worker: len(worker.numbers))
        worker.ask(self._num_asked, pickle.dumps(task, pickle.HIGHEST_PROTOCOL))
        self._num_asked += 1

    def next_result(self) -> Result:
        while self._num_taken not in self._replies:
            self._receive(wait_s=None)
        result, error, text = pickle.loads(self._replies.pop(self._num_taken))
        self._num_taken += 1
        if error is None:
            return result
        if not isinstance(error, FanalError):  # whose line is all there is to say
            error.add_note(
                f"in a worker process:\n{text}"
            )  # here, since not every error takes its notes through a pickle
        raise error

    def end(self) -> None:
        """End the workers. Nothing of theirs is worth waiting for."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(END_S)
            worker.pipe.close()

    def _receive(self, *, wait_s: float | None) -> None:
        """Take over what workers have done.

        Args: wait_s: seconds to wait for something; None is until there is something, if only the end of a worker.
        """
        watched: list[Any] = [part for worker in self._workers for part in (worker.pipe, worker.process.sentinel)]
        ready = wait(watched, wait_s)
        for worker in self._workers:
            if worker.pipe in ready:
                number, reply = worker.receive()
                self._replies[number] = reply
            elif worker.process.sentinel in ready:
                raise worker.death()


class _Worker:
    """A forked process, this process's end of its pipe, and the numbers of the tasks that it has."""

    def __init__(self, work: Callable[[Any], Any], others: Sequence[Connection]) -> None:
        """Args: others: this process's ends of other workers' pipes, of which a fork inherits copies."""
        fork = multiprocessing.get_context("fork")
        self.pipe, theirs = fork.Pipe()
        self.numbers: deque[int] = deque()
        # A daemon is not waited for at exit, should this process leave without ending it.
        self.process = fork.Process(target=_serve, args=(work, theirs, os.getpid(), [self.pipe, *others]), daemon=True)
        with theirs:  # no other process keeps a copy: the pipe ends when this worker does
            self.process.start()

    def ask(self, number: int, task: bytes) -> None:
        try:
            self.pipe.send_bytes(task)
        except OSError:
            raise self.death() from None
        self.numbers.append(number)

    def receive(self) -> tuple[int, bytes]:
        try:
            reply = self.pipe.recv_bytes()
        except (EOFError, OSError):
            raise self.death() from None
        return self.numbers.popleft(), reply

    def death(self) -> PassingError:
        self.process.join(END_S)
        code = self.process.exitcode
        if code is None or code == -signal.SIGKILL:
            how = "was killed, often because memory ran out"
        else:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended early, with exit code {code}"
        return PassingError(f"a worker process {how}: --workers 1 uses the least memory")


def _serve(work: Callable[[Any], Any], pipe: Connection, parent: int, inherited: Sequence[Connection]) -> None:
    """Do tasks until this process is ended. Runs in the worker."""
    _end_with(parent)
    for other in inherited:
        other.close()
    tasks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read_ahead, args=(pipe, tasks), daemon=True).start()
    while (task := tasks.get()) is not None:
        pipe.send_bytes(_reply(work, task))


def _read_ahead(pipe: Connection, tasks: "queue.SimpleQueue[bytes | None]") -> None:
    """Read tasks as they come: two processes that both wait for the other to read would wait for ever."""
    try:
        with contextlib.suppress(EOFError, OSError):  # the pipe's end
            while True:
                tasks.put(pipe.recv_bytes())
    finally:
        tasks.put(None)


def _reply(work: Callable[[Any], Any], task: bytes) -> bytes:
    """Return, as bytes, (the result, None, "") or (None, what was raised, its traceback)."""
    try:
        return pickle.dumps((work(pickle.loads(task)), None, ""), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        try:
            reply = pickle.dumps((None, error, text))
            pickle.loads(reply)
        except Exception:
            reply = pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}"), text))
        return reply


def _end_with(parent: int) -> None:
    """Make this process end with its parent, however that ends, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    follow_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

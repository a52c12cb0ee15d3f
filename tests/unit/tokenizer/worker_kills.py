"""Runs of worker processes of which one is killed at a known moment: ``python -m tests.unit.tokenizer.worker_kills MOMENT``.

Needs nothing but Python and our own code, so that any Python of the machine can run it. Prints what came of it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fanal.errors import PassingError
from tokenizer.encoding.workers import in_order

LARGE = 32 << 20
"""Bytes that no pipe holds: who sends them waits until somebody reads."""
SMALL = 1 << 20
SEEDS = range(12)


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def own_process(_: bytes) -> int:
    return os.getpid()


def idle() -> Iterator[object]:
    """A worker that has nothing to do."""
    results = in_order(own_process, [b""] * 20, num_workers=2)
    first = next(results)
    time.sleep(0.2)  # by now all that was asked is done
    kill(first)
    yield from results


def in_a_task() -> Iterator[object]:
    """A worker that computes, while more tasks than the pipes hold are asked for."""

    def work(task: tuple[int, bytes]) -> int:
        if task[0] == 5:
            kill(os.getpid())
        return len(task[1])

    yield from in_order(work, ((number, bytes(4 * SMALL)) for number in range(40)), num_workers=2)


def reading_its_task() -> Iterator[object]:
    """A stopped worker reads nothing: it is killed while its task is half on the way."""

    def tasks() -> Iterator[bytes]:
        yield b""
        yield b""
        os.kill(children()[0], signal.SIGSTOP)
        os.kill(children()[1], signal.SIGSTOP)
        threading.Timer(0.3, kill, [children()[0]]).start()
        threading.Timer(0.6, kill, [children()[1]]).start()
        yield bytes(LARGE)

    yield from in_order(own_process, tasks(), num_workers=2)


def writing_its_result() -> Iterator[object]:
    """A worker whose result is half read when it goes, and one whose result nobody reads yet."""
    results = in_order(lambda _: bytes(LARGE), [b""] * 8, num_workers=2)
    yield len(next(results))
    time.sleep(0.3)  # both wait for a reader of their next result
    kill(children()[1])
    yield from map(len, results)


def all_at_once() -> Iterator[object]:
    """All workers, as the kernel does in a memory limit."""
    results = in_order(lambda _: time.sleep(0.05), [b""] * 40, num_workers=4)
    yield next(results)
    for process in children():
        kill(process)
    yield from results


def at_any_moment() -> Iterator[object]:
    """A worker, at a moment drawn for each seed."""
    for seed in SEEDS:
        timer = threading.Timer(0.004 * seed, lambda: [kill(process) for process in children()[:1]])
        timer.start()
        try:
            yield from map(len, in_order(lambda task: task, [bytes(SMALL)] * 400, num_workers=2))
        except PassingError as error:
            if "was killed" not in str(error):
                raise
        timer.join()
    raise PassingError("each was killed or came to its end")


def children() -> list[int]:
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


MOMENTS: dict[str, Callable[[], Iterator[object]]] = {
    act.__name__: act for act in (idle, in_a_task, reading_its_task, writing_its_result, all_at_once, at_any_moment)
}

if __name__ == "__main__":
    try:
        for _ in MOMENTS[sys.argv[1]]():
            pass
        print("came to its end")
    except PassingError as problem:
        print(problem)
    assert not children(), "a worker outlives its run"

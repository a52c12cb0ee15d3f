"""Worker processes: results in order, errors as in one process, and no death of a worker hangs who waits for it."""

import functools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fanal.errors import PassingError, UserError
from tests.unit.tokenizer.worker_kills import MOMENTS, children
from tokenizer.encoding.workers import in_order

ROOT = Path(__file__).parents[3]
PATIENCE_S = 120
SYSTEM_PYTHON = "/usr/bin/python3"


@functools.cache
def pythons() -> list[str]:
    """This Python, and the system's where it is another one: Debian 12's is older than the newest 3.11."""
    ask = [SYSTEM_PYTHON, "-c", "import sys; print(sys.version_info >= (3, 11), sys.version)"]
    if not Path(SYSTEM_PYTHON).exists():
        return [sys.executable]
    told = subprocess.run(ask, capture_output=True, text=True, timeout=PATIENCE_S).stdout.strip()
    return (
        [sys.executable, SYSTEM_PYTHON]
        if told.startswith("True") and told != f"True {sys.version}"
        else [sys.executable]
    )


@pytest.fixture(autouse=True)
def no_worker_stays() -> Iterator[None]:
    before = set(children())
    yield
    assert set(children()) <= before, "a worker outlives its run"


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("python", pythons())
def test_a_worker_killed_at_any_moment_ends_the_run_at_once(python: str, moment: str) -> None:
    words = [python, "-m", "tests.unit.tokenizer.worker_kills", moment]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    killed = "a worker process was killed, often because memory ran out: --workers 1 uses the least memory\n"
    expected = "each was killed or came to its end\n" if moment == "at_any_moment" else killed
    assert (done.stdout, done.stderr) == (expected, "")


def test_the_results_come_in_the_order_of_the_tasks() -> None:
    def work(number: int) -> int:
        time.sleep(0.02 * (number % 3 == 0))  # later ones are done before
        return number**2

    assert list(in_order(work, range(30), num_workers=3)) == [number**2 for number in range(30)]


def test_at_most_two_tasks_a_worker_are_under_way() -> None:
    asked, most = 0, 0

    def tasks() -> Iterator[int]:
        nonlocal asked
        for number in range(30):
            asked += 1
            yield number

    for taken, _ in enumerate(in_order(lambda number: number, tasks(), num_workers=3)):
        most = max(most, asked - taken)
    assert most == 6


def test_the_error_of_the_first_bad_task_is_the_one_that_is_raised() -> None:
    def work(number: int) -> int:
        time.sleep(0.1 * (number == 4))
        if number >= 4:
            raise UserError(f"task {number} is bad")
        return number

    results = in_order(work, range(9), num_workers=3)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"^task 4 is bad$") as caught:
        next(results)
    assert not hasattr(caught.value, "__notes__"), "its line is all there is to say"


class TwoPartsError(Exception):
    """An error that does not survive a pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize(
    "error",
    [KeyError("surprise"), TwoPartsError("sur", "prise"), json.JSONDecodeError("surprise", "{", 1)],
    ids=["KeyError", "of two parts", "of a library"],
)
def test_a_crash_in_a_worker_shows_where_it_was(error: Exception) -> None:
    def a_telling_name(_: int) -> None:
        raise error

    with pytest.raises((KeyError, RuntimeError, ValueError)) as caught:
        next(in_order(a_telling_name, range(2), num_workers=2))
    told = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "in a worker process:" in told and "in a_telling_name" in told and "surprise" in told


def test_a_worker_that_leaves_on_its_own_is_no_mystery() -> None:
    with pytest.raises(PassingError, match=r"^a worker process ended early, with exit code 3: --workers 1 uses"):
        next(in_order(lambda _: os._exit(3), range(2), num_workers=2))


def test_workers_that_cannot_be_started_are_one_line_and_none_stays() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, hard))
    try:
        with pytest.raises(
            PassingError, match=r"^worker process \d+ of 40 cannot be started: Too many open files; --wor"
        ):
            next(in_order(len, ["a"], num_workers=40))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_reader_that_fails_or_stops_leaves_no_worker() -> None:
    def tasks() -> Iterator[int]:
        yield 1
        raise UserError("the file is damaged")

    with pytest.raises(UserError, match="the file is damaged"):
        list(in_order(abs, tasks(), num_workers=2))
    results = in_order(abs, range(100), num_workers=2)
    next(results)
    results.close()  # type: ignore[attr-defined]

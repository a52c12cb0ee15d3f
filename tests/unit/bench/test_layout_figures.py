"""What ``bench.layouts`` counts in a rank: calls that contain calls once, and threads by what they are."""

import threading
import time

import pytest

from bench.layouts import main
from bench.layouts_rank import MAIN, Collectives, Threads


def test_a_call_inside_a_call_counts_once() -> None:
    collectives = Collectives()
    inner = collectives._timed(lambda: time.sleep(0.02))
    outer = collectives._timed(lambda: (inner(), time.sleep(0.02))[0])
    outer()
    assert collectives.calls == 1
    assert 0.04 <= collectives.wall_s < 1.0
    assert collectives.cpu_s < 0.02


def test_waiting_for_a_call_adds_to_its_time_and_not_to_the_calls() -> None:
    class Work:
        def wait(self) -> str:
            time.sleep(0.02)
            return "done"

    collectives = Collectives()
    assert collectives._timed(Work)().wait() == "done"
    assert collectives.calls == 1 and collectives.wall_s >= 0.02


def test_threads_are_known_by_name_or_by_when_they_came() -> None:
    ended, started = threading.Event(), threading.Barrier(3)
    threads = Threads()

    def wait() -> None:
        started.wait()
        ended.wait()

    named = threading.Thread(target=wait, name="a watch")
    unnamed = threading.Thread(target=wait)
    named.start()
    unnamed.start()
    started.wait()
    try:
        kinds = threads.kinds()
        assert kinds[named.native_id or 0] == "Python: a watch"
        assert list(kinds.values()).count(MAIN) == 1
        threads.came("a library's")
        assert threads.kinds()[unnamed.native_id or 0] == "a library's"
        assert threads.cpu_s()[MAIN] > 0
    finally:
        ended.set()


@pytest.mark.parametrize("argument", ["--steps=0", "--only=tp8"])
def test_a_wrong_option_of_the_layouts_ends_in_one_line_and_code_2(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument]) == 2
    assert capsys.readouterr().err.count("\n") == 1

"""Reading ahead: the same items in the same order, never more than the budget, and a clean end."""

import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from pretrain.data.prefetch import Prefetcher


def wait_until_still(made: list[int], at_least: int = 0) -> int:
    """How many items were made once no more come; on a busy machine those to expect may take their time."""
    deadline = time.monotonic() + 30
    while len(made) < at_least and time.monotonic() < deadline:
        time.sleep(0.001)
    before = -1
    while before != len(made):
        before = len(made)
        time.sleep(0.05)
    return before


def counted(made: list[int], end: int = 1000) -> Iterator[int]:
    for number in range(end):
        made.append(number)
        yield number


@pytest.mark.parametrize("budget_bytes", [0, 5, 10, 35, 10**6])
def test_items_come_in_order_whatever_the_budget(budget_bytes: int) -> None:
    with Prefetcher(iter(range(500)), item_bytes=10, budget_bytes=budget_bytes) as ahead:
        assert list(ahead) == list(range(500))
        assert list(ahead) == []


def test_never_more_items_wait_than_the_budget_holds() -> None:
    made: list[int] = []
    with Prefetcher(counted(made), item_bytes=10, budget_bytes=39) as ahead:
        assert wait_until_still(made, 3) == 3
        for taken in range(1, 20):
            next(ahead)
            assert wait_until_still(made, taken + 3) == taken + 3


def test_a_budget_below_one_item_makes_it_when_it_is_asked_for() -> None:
    made: list[int] = []
    with Prefetcher(counted(made), item_bytes=10, budget_bytes=9) as ahead:
        assert wait_until_still(made) == 0
        assert next(ahead) == 0 and made == [0]


@pytest.mark.parametrize("budget_bytes", [0, 100])
def test_an_error_is_raised_after_the_items_before_it_with_the_place_where_it_happened(budget_bytes: int) -> None:
    def broken_disk() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk has stopped")

    with Prefetcher(broken_disk(), item_bytes=10, budget_bytes=budget_bytes) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(OSError, match="the disk has stopped") as caught:
            next(ahead)
    assert "in broken_disk" in "".join(traceback.format_exception(caught.value))


def test_leaving_with_an_exception_stops_the_thread() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="mine"), Prefetcher(counted([]), item_bytes=1, budget_bytes=4) as ahead:
        next(ahead)
        raise RuntimeError("mine")
    assert threading.active_count() == before
    assert list(ahead) == []


def test_closing_twice_or_before_the_first_item_does_no_harm() -> None:
    ahead = Prefetcher(counted([]), item_bytes=1, budget_bytes=4)
    ahead.close()
    ahead.close()
    assert list(ahead) == []


def test_a_consumer_that_finds_nothing_made_makes_it_itself() -> None:
    stands_back = threading.Event()

    def items() -> Iterator[str]:
        yield threading.current_thread().name
        yield threading.current_thread().name
        raise OSError("the disk has stopped")

    def wait() -> None:
        stands_back.wait(60)

    with Prefetcher(items(), item_bytes=1, budget_bytes=1, prepare_thread=wait) as ahead:
        assert [next(ahead), next(ahead)] == [threading.current_thread().name] * 2
        for _ in range(2):
            with pytest.raises(OSError, match="the disk has stopped"):
                next(ahead)
        stands_back.set()
        assert ahead._thread is not None
        ahead._thread.join(60)
        assert not ahead._thread.is_alive(), "nothing is left to make"


def test_the_thread_is_prepared_before_the_first_item() -> None:
    done: list[str] = []

    def items() -> Iterator[int]:
        done.append(f"made in {threading.current_thread().name}")
        yield 1

    ahead = Prefetcher(items(), item_bytes=1, budget_bytes=1, prepare_thread=lambda: done.append("prepared"))
    wait_until_still(done, 2)  # type: ignore[arg-type]
    assert list(ahead) == [1] and done == ["prepared", "made in prefetch"]

"""Curves and rows of any length: bounded, and what stands out is there."""

import itertools
import random
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.report import thinning
from pretrain.report.thinning import MAX_ROWS, MAX_STRETCHES, Curve, Point, Rows


def curve_of(values: Sequence[float]) -> Curve:
    """Newest first, as a log is read."""
    curve = Curve()
    for at in reversed(range(len(values))):
        curve.add(Point(at, at * 10, float(at - len(values)), values[at]))
    return curve


def assert_stands_out(values: Sequence[float]) -> None:
    points = curve_of(values).points()
    steps, kept = [point.step for point in points], [point.value for point in points]
    assert steps == sorted(steps) and len(set(steps)) == len(steps) <= 2 * MAX_STRETCHES + 2
    assert all(point.value == values[point.step] and point.tokens == point.step * 10 for point in points)
    assert (min(kept), max(kept)) == (min(values), max(values))
    assert (steps[0], steps[-1]) == (0, len(values) - 1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=MAX_STRETCHES))
def test_a_short_curve_is_kept_whole(values: list[float]) -> None:
    assert [point.value for point in curve_of(values).points()] == values


@given(st.integers(1, 5_000), st.integers(0, 2**32))
def test_extremes_ends_and_values_are_kept_of_any_length(length: int, seed: int) -> None:
    source = random.Random(seed)
    assert_stands_out([source.gauss(0, 1) for _ in range(length)])


def test_one_spike_in_a_million_is_kept_in_bounded_memory() -> None:
    count, spike = 1_000_000, 123_457
    tracemalloc.start()
    curve = Curve()
    for at in reversed(range(count)):
        curve.add(Point(at, at, float(at), 99.0 if at == spike else 1.0 + at % 5))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    points = curve.points()
    assert [point.step for point in points if point.value == 99.0] == [spike]
    assert len(points) <= 2 * MAX_STRETCHES + 2 and held < 500_000


def test_a_curve_that_keeps_the_first_of_a_stretch_loses_the_spike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [1.0] * 2_000
    values[777] = 50.0
    assert_stands_out(values)
    monkeypatch.setattr(thinning, "_both", lambda left, right: left)
    with pytest.raises(AssertionError):
        assert_stands_out(values)


@given(st.integers(1, 3_000))
def test_rows_are_spread_evenly_with_both_ends(length: int) -> None:
    rows = Rows()
    for at in reversed(range(length)):
        rows.add({"step": at})
    steps = [row["step"] for row in rows.rows()]
    assert steps[0] == 0 and steps[-1] == length - 1 and len(steps) <= MAX_ROWS + 1
    assert rows.count == length
    gaps = {after - before for before, after in itertools.pairwise(steps[1:])}
    assert len(gaps) <= 1, f"rows are not evenly apart: {steps}"
    if length <= MAX_ROWS:
        assert steps == list(range(length))

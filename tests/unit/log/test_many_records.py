"""Runs of many records: what is said of them takes no more memory than of a short one, and the newest record no longer to find."""

import json
import statistics
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanal import json_lines, running_median
from fanal.run_folder import METRICS_FILE
from fanal.run_progress import newest_metrics
from fanal.running_median import RunningMedian
from launch.status.progress import (
    FIELDS,
    MIN_ENDED_S,
    NEWEST_RECORDS,
    Ended,
    Timeline,
    lost_share,
    newest_records,
    timeline,
)
from launch.status.status import status
from pretrain.convert.exporting.measured import measured_rows
from pretrain.log import curve
from pretrain.log.curve import Curves
from pretrain.log.summary import BARS, sparkline, summary
from tests.unit.launch.run_folder import end, saved, start, step, validation

MANY = 12_000
MOST_BYTES = 5 << 20
"""What a pass may hold at once: a block of the file, pieces of curves, numbers whose median is sought."""


def full_step(number: int) -> dict[str, Any]:
    losses = {f"domain {place}": 3.0 + place for place in range(8)}
    return step(number, loss=3 + 1 / number) | {
        "loss_by_domain": losses, "peak_memory_bytes": 2**30, "tokens_per_second": 1000.0 + number / 7,
    }  # fmt: skip


def many(run_dir: Path, count: int) -> Path:
    with (run_dir / METRICS_FILE).open("w") as stream:
        stream.write(json.dumps(start(0, train_steps=1000, num_ranks=4, device="one GPU")) + "\n")
        for number in range(1, count + 1):
            stream.write(json.dumps(full_step(number)) + "\n")
            if number % 100 == 0:
                stream.write(json.dumps(validation(number, 3.5)) + "\n")
    return run_dir


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(tmp_path_factory.mktemp("long"), MANY)


def peak_bytes(act: Callable[[], object]) -> int:
    act()  # what is imported and kept once is none of it
    tracemalloc.start()
    act()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", ["summary", "card"])
def test_a_summary_and_a_card_keep_no_record(name: str, long_run: Path) -> None:
    acts: dict[str, Callable[[], object]] = {
        "summary": lambda: summary(long_run),
        "card": lambda: measured_rows(long_run, MANY),
    }
    assert peak_bytes(acts[name]) < MOST_BYTES


def test_a_status_keeps_the_newest_records_alone(long_run: Path) -> None:
    def newest() -> Timeline:
        return timeline(newest_records(newest_metrics(long_run), limit=1000)[0])

    assert peak_bytes(newest) < MOST_BYTES
    assert newest().steps[-1]["step"] == MANY and 900 < len(newest().steps) <= 1000


def test_the_newest_record_is_found_without_reading_the_others(long_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 4096)
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json_lines.json, "loads", lambda text: parsed.append(text) or loads(text))
    assert next(newest_metrics(long_run, kinds=("step",)))["step"] == MANY
    assert len(parsed) <= 2, "it, and the nothing behind the last line"


def test_a_status_of_a_long_run_knows_what_its_last_start_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.status.status.newest_records", lambda found, limit=60: newest_records(found, limit))
    many(tmp_path, 900)
    found = status(tmp_path)
    assert (found["step"], found["train_steps"]) == (900, 1000)
    assert found["loss_before_step"] is not None and found["pace"]["num_records"] == 50


@pytest.mark.parametrize("num_attempts", [100, 1000])
def test_the_time_that_attempts_lost_looks_at_each_record_a_few_times(num_attempts: int) -> None:
    looks = 0

    class Counted(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            nonlocal looks
            looks += 1
            return super().__getitem__(name)

    steps = [Counted(step(number)) for number in range(1, NEWEST_RECORDS // 4 + 1)]
    size = len(steps) // num_attempts
    wall_s = max(MIN_ENDED_S, 2.5 * size)
    ended = [
        Ended(step_before=number * size, step_after=(number + 1) * size, wall_s=wall_s)
        for number in range(num_attempts)
    ]
    line = Timeline(steps=steps)  # type: ignore[arg-type]
    lost = lost_share(line, ended, step_time_s=1.0, validation_interval=None, save_interval=None)
    assert lost is not None and lost.share == pytest.approx(1 - 2.0 * size / wall_s)
    assert looks < 2 * len(steps) + 40 * num_attempts


def test_steps_that_a_later_attempt_has_trained_again_are_kept_once() -> None:
    line = Timeline(steps=[step(number, step_time_s=2.0) for number in range(1, 201)])
    ended = [Ended(step_before=0, step_after=100, wall_s=400.0), Ended(step_before=50, step_after=200, wall_s=400.0)]
    lost = lost_share(line, ended, step_time_s=1.0, validation_interval=None, save_interval=None)
    assert lost is not None and lost.share == pytest.approx(0.5)


def test_attempts_before_the_newest_records_are_not_counted() -> None:
    line = Timeline(steps=[step(number, step_time_s=2.0) for number in range(101, 201)], is_whole=False)
    ended = [Ended(step_before=0, step_after=50, wall_s=9e9), Ended(step_before=100, step_after=200, wall_s=800.0)]
    lost = lost_share(line, ended, step_time_s=1.0, validation_interval=None, save_interval=None)
    assert lost is not None and lost.share == pytest.approx(0.75) and "1 attempt" in lost.counts


ACTS = st.sampled_from(["step", "step", "step", "step", "validation", "save", "end", "start", "back", "back"])


def history(acts: list[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Records as a run writes them that falls back to some step again and again."""
    now = 0
    for act, number in acts:
        if act == "step":
            now += 1 + number % 3
            yield step(now, loss=float(number))
        elif act == "validation":
            yield validation(now, float(number))
        elif act == "save":
            yield saved(now, failure=None if number % 2 else "the disk was full")
        elif act == "end":
            yield end(now, "stopped")
        elif act == "start":
            yield start(now, train_steps=1000 + number)
        else:
            now = now * number // 20


@given(st.lists(st.tuples(ACTS, st.integers(0, 20)), max_size=40))
def test_the_records_that_a_status_looks_at_tell_what_all_of_them_tell(acts: list[tuple[str, int]]) -> None:
    records = list(history(acts))
    kept, is_whole = newest_records(reversed(records))
    stripped = [{name: record.get(name) for name in ("kind", *FIELDS[record["kind"]])} for record in records]
    assert is_whole and timeline(kept) == timeline(stripped)


def test_a_run_that_fell_back_often_is_no_longer_to_keep() -> None:
    records = [step(number) for _ in range(50) for number in range(1, 101)]
    assert len(newest_records(reversed(records))[0]) < 100 + 50


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=200))
def test_a_running_median_is_exact_while_few_numbers_differ(values: list[float]) -> None:
    running = RunningMedian()
    for value in values:
        running.add(value)
    assert running.value() == sorted(values)[len(values) // 2]


@given(st.lists(st.floats(1e3, 1e5), min_size=1, max_size=400))
def test_a_running_median_of_many_numbers_is_near_and_small(values: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_median, "MAX_DIFFERENT", 50)
        running = RunningMedian()
        for value in values:
            running.add(value)
        assert len(running._counts) <= max(50, 30)
        digits = running._digits[0]
        exact = sorted(values)[len(values) // 2]
        assert running.value() == pytest.approx(exact, rel=10.0 ** (1 - digits))


def test_curves_of_few_records_are_their_values_and_of_many_are_nearly_as_drawn_of_all() -> None:
    few, values = Curves(), [float(number % 7) for number in range(curve.MAX_PIECES)]
    for value in reversed(values):
        few.add({"code": value})
    assert list(few.of_domains()) == [("code", values, values[0], values[-1])]
    falling, long = Curves(), [8 / (1 + number / 500) for number in range(20_000)]
    for value in reversed(long):
        falling.add({"code": value, "rare": None})
    (domain, pieces, first, last), *others = falling.of_domains()
    assert not others and (domain, first, last) == ("code", long[0], long[-1]) and len(pieces) <= curve.MAX_PIECES
    heights = ([BARS.index(bar) for bar in sparkline(values)] for values in (pieces, long))
    assert all(abs(piece - whole) <= 1 for piece, whole in zip(*heights, strict=True))
    assert statistics.fmean(value for value in pieces if value) == pytest.approx(statistics.fmean(long), rel=0.05)

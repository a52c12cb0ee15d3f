"""A log is read once, from its end; beside a reading by brute force."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanal import json_lines
from fanal.run_folder import METRICS_FILE
from pretrain.report import read_log as module
from pretrain.report.read_log import MAX_DOMAINS, MAX_LISTED, NUMBERS, RunLog, read_log
from tests.unit.report.made_runs import Record, checkpoint, end, resumed, stamped, start, step, validation, write_run


def counted_by_hand(records: list[Record]) -> tuple[dict[int, Record], int]:
    """Forwards: the record of each step that counts, and how many steps were lost."""
    steps: dict[int, Record] = {}
    lost = 0
    for record in records:
        if record["kind"] == "start":
            gone = [number for number in steps if number > record["step"]]
            lost += max(gone, default=record["step"]) - record["step"]
            steps = {number: kept for number, kept in steps.items() if number <= record["step"]}
        elif record["kind"] == "step":
            steps[record["step"]] = record
    return steps, lost


def assert_as_by_hand(log: RunLog, records: list[Record]) -> None:
    steps, lost = counted_by_hand(records)
    assert (log.num_steps, log.lost_steps) == (len(steps), lost)
    for name in NUMBERS:
        assert [(point.step, point.value) for point in log.steps[name].points()] == [
            (number, record[name]) for number, record in sorted(steps.items())
        ]
    for domain in ("code", "prose"):
        assert [(point.tokens, point.value) for point in log.domains[domain].points()] == [
            (record["consumed_tokens"], record["loss_by_domain"][domain]) for _, record in sorted(steps.items())
        ]


def test_what_a_later_start_trained_again_counts_once_and_what_was_lost_is_apart(tmp_path: Path) -> None:
    records = resumed()
    log = read_log(write_run(tmp_path, records))
    assert_as_by_hand(log, records)
    assert log.lost_steps == 10 and [point.step for point in log.lost.points()] == list(range(21, 31))
    assert [(s.number, s.step, s.last_step, s.lost_steps) for s in log.starts] == [(1, 0, 30, 10), (2, 20, 40, 0)]
    assert [point.step for point in log.validation["code"].points()] == [40]  # the one of step 25 was lost
    assert [point.step for point in log.saves.points()] == [20, 40]
    assert log.last_step == records[-4] and log.starts[1].end == records[-1]


def test_a_reader_that_takes_lost_steps_for_trained_ones_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = resumed()
    folder = write_run(tmp_path, records)
    monkeypatch.setattr(module, "min", lambda *_: math.inf, raising=False)
    with pytest.raises(AssertionError):
        assert_as_by_hand(read_log(folder), records)


@given(st.integers(0, 2**32))
def test_any_sequence_of_starts_is_read_as_by_hand(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    source = random.Random(seed)
    records: list[Record] = []
    reached = 0
    for number in range(1, source.randint(2, 7)):
        begin = source.randint(0, reached)
        last = begin + source.randint(0, 12)
        reached = max(begin, last)
        lines = [start(begin), *(step(at, loss=source.random()) for at in range(begin + 1, last + 1))]
        records += stamped(lines, number, clock_s=source.random() * 1e9) if source.random() < 0.7 else lines
    if sum(record["kind"] == "step" for record in records):
        log = read_log(write_run(tmp_path_factory.mktemp("log"), records))
        if log.num_steps:
            assert_as_by_hand(log, records)


def test_time_is_that_of_running_whatever_the_clock_does(tmp_path: Path) -> None:
    log = read_log(write_run(tmp_path, resumed()))
    times = [log.running_s + point.time_s for point in log.steps["loss"].points()]
    assert times == sorted(times) and all(time > 0 for time in times)
    first, second = log.starts
    assert (first.running_s, second.running_s) == (2.0 + 32, 2.0 + 23)
    assert (first.begins_at_s, second.begins_at_s, log.running_s) == (0.0, 34.0, 59.0)
    assert times[0] == 3.0 and times[20] == 34.0 + 3.0  # step 21 of the second start
    assert (first.ended_unix_s or 0) > (second.ended_unix_s or 0), "the clock went back"


def test_a_log_without_times_has_the_times_of_its_steps(tmp_path: Path) -> None:
    records = [start(0), *(step(at) for at in range(2, 21, 2)), start(10), *(step(at) for at in range(12, 31, 2))]
    log = read_log(write_run(tmp_path, records))
    assert_as_by_hand(log, records)
    assert [s.running_s for s in log.starts] == [10.0, 10.0] and log.running_s == 20.0
    times = [round(log.running_s + point.time_s, 9) for point in log.steps["loss"].points()]
    assert times == [1, 2, 3, 4, 5, *range(11, 21)]


def test_the_file_is_opened_once_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, [start(0), *(step(at) for at in range(1, 5_001)), end(5_000)])
    size, opened, read = (folder / METRICS_FILE).stat().st_size, [], []
    plain = json_lines.plain_stream

    class Spied:
        """A stream that counts what is read."""

        def __init__(self, path: Path) -> None:
            opened.append(path)
            self._stream = plain(path)

        def __enter__(self) -> "Spied":
            self._inner = self._stream.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self._stream.__exit__(*error)

        def seek(self, *place: int) -> int:
            return self._inner.seek(*place)

        def read(self, count: int) -> bytes:
            found = self._inner.read(count)
            read.append(len(found))
            return found

    monkeypatch.setattr(json_lines, "plain_stream", Spied)
    assert read_log(folder).num_steps == 5_000
    assert len(opened) == 1 and sum(read) == size


def test_torn_lines_and_strange_values_cost_their_line_alone(tmp_path: Path) -> None:
    records: list[Any] = [start(0, versions="none"), *(step(at) for at in range(1, 6))]
    strange = [
        step(6, loss=float("nan")), {**step(7), "loss": "high", "loss_by_domain": [1], "consumed_tokens": -5, "tokens_per_second": True},
        {"kind": "step", "step": "8"}, {"kind": "step", "step": True}, {"kind": "checkpoint", "step": 5}, {"kind": "end", "step": 7},
        {**step(9), "loss": 10**300, "grad_norm": 10**400, "elapsed_s": "late", "time_unix_s": -1, "start": "first"},
    ]  # fmt: skip
    folder = write_run(tmp_path, [*records, *strange])
    with (folder / METRICS_FILE).open("a") as stream:
        stream.write('{"kind": "step", "step": 10, "lo')
    log = read_log(folder)
    assert (log.num_steps, log.not_finite) == (8, 3)
    assert [point.step for point in log.steps["loss"].points()] == [1, 2, 3, 4, 5]


def test_more_domains_and_starts_than_are_shown_are_counted(tmp_path: Path) -> None:
    many = {f"domain-{number:04}": 1.0 for number in range(MAX_DOMAINS + 5)}
    records = [line for at in range(MAX_LISTED + 50) for line in (start(at), step(at + 1, loss_by_domain=many))]
    log = read_log(write_run(tmp_path, records))
    assert len(log.domains) == MAX_DOMAINS and log.domains_left_out == log.num_steps == MAX_LISTED + 50
    assert (len(log.starts), log.num_starts) == (MAX_LISTED, MAX_LISTED + 50)
    assert log.starts[-1].step == MAX_LISTED + 49 and log.starts[0].begins_at_s == pytest.approx(50 * 0.5)


def test_saves_that_failed_are_apart(tmp_path: Path) -> None:
    records = [start(0), step(1), checkpoint(1, failure="disk full"), step(2), validation(2), checkpoint(2)]
    log = read_log(write_run(tmp_path, records))
    assert [record["failure"] for record in log.failed_saves] == ["disk full"] and log.num_failed_saves == 1
    assert [point.step for point in log.saves.points()] == [2]
    json.dumps(log.checkpoint_rows.rows())

"""What lines of a log say beside their record."""

import json
import time
from pathlib import Path

import pytest

from fanal.run_folder import METRICS_FILE
from pretrain.log.stamp import Stamp, last_logged_step


def write(folder: Path, *records: dict) -> None:
    (folder / METRICS_FILE).write_text("".join(json.dumps(record) + "\n" for record in records))


def step(number: int, start: int | None = None, *, replay: bool = False) -> dict:
    return (
        {"kind": "step", "step": number}
        | ({} if start is None else {"start": start})
        | ({"replay": True} if replay else {})
    )


def test_a_line_has_its_start_the_wall_clock_and_the_time_since_the_command() -> None:
    stamp = Stamp(start=3, began_s=time.monotonic() - 100, start_step=0, logged_step=0)
    fields = stamp.fields(step=1)
    assert fields.keys() == {"start", "time_unix_s", "elapsed_s"} and fields["start"] == 3
    assert fields["time_unix_s"] == pytest.approx(time.time(), abs=5) and fields["elapsed_s"] == pytest.approx(
        100, abs=5
    )


@pytest.mark.parametrize(
    ("number", "replay"), [(None, False), (0, False), (5, False), (6, True), (8, True), (9, False), (100, False)]
)
def test_steps_behind_the_point_of_the_start_that_were_logged_before_are_marked(
    number: int | None, replay: bool
) -> None:
    stamp = Stamp(start=2, began_s=0.0, start_step=5, logged_step=8)
    assert stamp.fields(step=number).get("replay", False) is replay


LOGS = {
    "none": ([], 0),
    "one start": ([step(1, 1), step(2, 1)], 2),
    "a kill": ([step(8, 1), step(6, 2, replay=True)], 8),
    "two kills, the second before the first": ([step(8, 1), step(6, 2, replay=True), step(4, 3, replay=True)], 8),
    "beyond the kill": ([step(8, 1), step(8, 2, replay=True), step(9, 2)], 9),
    "an earlier version": ([step(8), step(3), step(4)], 8),
    "an earlier version, and a start since": ([step(8), step(4), step(5, 1, replay=True)], 8),
    "another kind": ([step(8, 1), {"kind": "checkpoint", "step": 12, "start": 1}], 8),
    "an edited line": ([step(8, 1), {"kind": "step", "step": "many", "start": 1, "replay": True}], 8),
}


@pytest.mark.parametrize(("records", "last"), LOGS.values(), ids=LOGS)
def test_the_last_logged_step_is_that_of_any_start(records: list[dict], last: int, tmp_path: Path) -> None:
    write(tmp_path, *records)
    assert last_logged_step(tmp_path) == last


def test_the_log_is_read_up_to_the_first_step_that_was_not_trained_again(tmp_path: Path) -> None:
    write(tmp_path, step(90), step(8, 1), step(7, 2, replay=True))
    assert last_logged_step(tmp_path) == 8, "what comes before says itself that it was no later one"

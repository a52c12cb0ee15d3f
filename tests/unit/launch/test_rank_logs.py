"""The reason a rank gave is found in its output."""

from pathlib import Path

import pytest

from launch.chain.rank_logs import asked_by, reason_of


def log(attempt: Path, place: str, text: str) -> None:
    folder = attempt / "logs" / place
    folder.mkdir(parents=True)
    (folder / "stderr.log").write_text(text)


@pytest.mark.parametrize(
    ("code", "said"),
    [(2, "data.train[0] is missing"), (76, "data.train[0] is missing"), (77, "watchdog: rank 3 hangs")],
)
def test_the_line_that_explains_an_exit_code_is_found(code: int, said: str, tmp_path: Path) -> None:
    log(tmp_path, "n1/7-0_x/attempt_0/0", "warning: something\n")
    log(
        tmp_path,
        "n2/7-0_x/attempt_0/1",
        "error: an older one\nerror: data.train[0] is missing\nwatchdog: rank 3 hangs\nStack:\n",
    )
    assert reason_of(tmp_path, code) == said


def test_a_crash_has_no_line_of_its_own(tmp_path: Path) -> None:
    log(tmp_path, "n1/7-0_x/attempt_0/0", "error: something else\n")
    assert reason_of(tmp_path, 70) == ""


def test_no_logs_are_no_reason(tmp_path: Path) -> None:
    assert reason_of(tmp_path, 2) == ""


def test_who_asked_to_stop_is_what_this_attempt_said(tmp_path: Path) -> None:
    assert asked_by(tmp_path) == ""
    log(tmp_path, "n1/7-0_x/attempt_0/0", "")
    said = "step 7\nstopped on request (STOP file); nothing to save, no step was done\n"
    (tmp_path / "logs/n1/7-0_x/attempt_0/0/stdout.log").write_text(said)
    assert asked_by(tmp_path) == "STOP file"
